"""Named filters, and what the parts of a condition reject."""

import json

import pytest
from here import score_here

from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.query import conditions
from faceq.query.filters import FILTERS, condition_of
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER
from jobs import demo


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("serfiq >= 0.6 and dbcnn >= 55", ["serfiq >= 0.6", "dbcnn >= 55"]),
        ("a > 1 AND (b > 2 AND c > 3)", ["a > 1", "b > 2", "c > 3"]),
        ("yaw < 20 or pitch > 3", ["(yaw < 20) OR (pitch > 3)"]),
        ("yaw between -20 and 20 and true", ["yaw BETWEEN -20 AND 20", "true"]),
        ("a > 1 and b -- why", ["a > 1", "b"]),
        ("(select true) and b", ["(SELECT true)", "b"]),
        ("member like '% and %' and not b", ["member ~~ '% and %'", "NOT b"]),
    ],
)
def test_a_condition_is_split_where_its_outermost_and_joins_it(condition, expected):
    assert conditions.split(condition) == expected


@pytest.mark.parametrize(
    "condition", ["x >", "", "1=1) union (select 1", "true; select 1", "1 order by 1", "1) order by (1"]
)
def test_what_is_no_condition_is_refused(condition):
    with pytest.raises(UsageError, match=r"^explain: "):
        conditions.split(condition)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """A sharp face, a blurred one, and a frame without a face."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "in").mkdir()
    face = demo.source_faces()["astronaut"]
    images = {"sharp": face, "blurred": demo.degraded(face, "blur", 4, 0), "nothing": face[:40, :40]}
    for name, image in images.items():
        (folder / "in" / f"{name}.jpg").write_bytes(demo._jpeg(image))
    return score_here(str(folder / "in"), str(folder / "table"), fiq_threshold=0)


def test_rows_that_fail_a_part_and_that_fail_it_alone_are_counted(table):
    with Rows(table, S3Settings()) as rows:
        found = conditions.explain(rows, "sharpness >= 0.2 and dbcnn > 0 and n_faces >= 0")
    assert (found.rows, found.passing) == (3, 1)
    assert found.parts == [
        conditions.Part("sharpness >= 0.2", fails=2, fails_alone=1, no_value=1),
        conditions.Part("dbcnn > 0", fails=1, fails_alone=0, no_value=1),
        conditions.Part("n_faces >= 0", fails=0, fails_alone=0, no_value=0),
    ]


def test_a_mistake_in_a_part_is_reported_as_in_a_query(table):
    with Rows(table, S3Settings()) as rows, pytest.raises(UsageError, match='did you mean "sharpness"'):
        conditions.explain(rows, "sharpnes >= 0.2")


def test_explain_prints_a_table_and_writes_the_same_as_json(table, tmp_path, capsys):
    assert main(["explain", table, "sharpness >= 0.2 and dbcnn > 0", "--json", f"{tmp_path}/why.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["sharpness", ">=", "0.2", "2", "1", "1"] and lines[3] == "1 of 3 rows pass"
    written = json.loads((tmp_path / "why.json").read_text())
    assert written["rows"] == 3 and written["parts"][0]["fails_alone"] == 1
    assert main(["explain", table]) == 0
    assert FILTER.split(" and ")[0] in capsys.readouterr().out


def test_explain_counts_the_faces_of_the_frames(faces_table, tmp_path, capsys):
    with Rows(faces_table, S3Settings(), faces=True) as rows:
        faces = rows.arrow(rows.chosen()).to_pylist()
    less = sorted(face["dbcnn"] for face in faces)[3]
    why = str(tmp_path / "why.json")
    assert main(["explain", "--faces", faces_table, f"dbcnn > {less} and n_faces > 1", "--json", why]) == 0
    passing = sum(face["dbcnn"] > less and face["n_faces"] > 1 for face in faces)
    assert f"{passing} of 7 faces pass" in capsys.readouterr().out
    written = json.loads((tmp_path / "why.json").read_text())
    fails = {part["condition"]: part["fails"] for part in written["parts"]}
    assert written["faces"] and sorted(fails.values()) == [1, 4]
    assert main(["explain", faces_table, "dbcnn > 0"]) == 0
    assert "2 of 3 rows pass" in capsys.readouterr().out


@pytest.mark.parametrize("name", FILTERS)
def test_a_named_filter_is_a_condition_that_is_printed(table, name, capsys):
    assert main(["query", table, "--filter", name, "--count"]) == 0
    shown = capsys.readouterr()
    assert f"--filter {name}: {FILTERS[name].condition}" in shown.err and shown.out.strip() in ("0", "1")
    assert len(conditions.split(condition_of(name))) == len(FILTERS[name].parts)


def test_a_filter_and_a_condition_must_both_hold(table, capsys):
    for more, count in (("true or false -- why", "1"), ("false or false", "0")):
        assert main(["query", table, more, "--filter", "recognition", "--count"]) == 0
        assert capsys.readouterr().out.strip() == count


def test_own_filters_are_found_first(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filters.yaml").write_text("portrait: dbcnn > 1 or false\nmine: sharpness < 0.2\n")
    for name, count in (("portrait", "2"), ("mine", "1")):
        assert main(["query", table, "--filter", name, "--count"]) == 0
        assert capsys.readouterr().out.strip() == count


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "--filter mine: choose from portrait, talking-head, recognition, or add it to filters.yaml"),
        ("other: x > 1\n1: a\nportrait: b\n", "recognition, other, 1, or add it"),
        ("mine: 3\n", "filters.yaml: mine: expected an SQL condition, got 3"),
        ("- mine\n", "filters.yaml: expected `key: value` lines, got list"),
    ],
)
def test_a_filter_that_does_not_exist_is_one_line(table, tmp_path, monkeypatch, capsys, content, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "filters.yaml").write_text(content)
    assert main(["query", table, "--filter", "mine"]) == 2
    assert said in capsys.readouterr().err


def test_filters_do_not_mix_with_a_whole_statement(table, capsys):
    assert main(["query", table, "--filter", "portrait", "--sql", "select 1"]) == 2
    assert "put --filter into it" in capsys.readouterr().err

"""The faces of a table by person."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from face_rows import face, write_faces

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.models import zoo
from faceq.selection import embedding_pairs, people
from faceq.selection.people_schema import COLUMNS
from faceq.table.schema import SCHEMA

SIZES = (7, 12, 1, 4, 1)


def album(seed: int = 0) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Photos of people, mixed; and the person of each `frame_id`."""
    generator = np.random.default_rng(seed)
    centres = np.linalg.qr(generator.standard_normal((16, len(SIZES))))[0].T
    who = generator.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    rows = []
    for i, person in enumerate(who):
        vector = centres[person] + 0.1 * generator.standard_normal(16)
        rows.append(face(f"{i:02}", embedding=(vector / np.linalg.norm(vector)).astype(np.float32)))
    return rows, {row["frame_id"]: person for row, person in zip(rows, who, strict=True)}


@pytest.fixture
def table(tmp_path) -> str:
    return write_faces(tmp_path / "album", album()[0])


def test_each_person_is_a_cluster_and_the_largest_is_the_first(table):
    found = faceq.cluster(table)
    assert found.schema.names == [column.name for column in COLUMNS]
    assert found.schema.types == [column.type for column in COLUMNS]
    _, person_of = album()
    rows = found.to_pylist()
    assert len(rows) == sum(SIZES)
    members: dict[Any, set[int]] = {}
    for row in rows:
        members.setdefault(row["cluster"], set()).add(person_of[row["frame_id"]])
    assert members == {0: {1}, 1: {0}, 2: {3}, None: {2, 4}}
    assert [row["faces"] for row in rows] == [12] * 12 + [7] * 7 + [4] * 4 + [None] * 2
    assert [row["source"] for row in rows[:12]] == sorted(row["source"] for row in rows[:12])


def test_the_cosine_is_the_mean_with_the_other_faces(table):
    vectors = {row["frame_id"]: row["embedding"] for row in album()[0]}
    own = [row for row in faceq.cluster(table).to_pylist() if row["cluster"] == 2]
    for row in own:
        others = [vectors[other["frame_id"]] for other in own if other is not row]
        assert row["cosine"] == pytest.approx(
            np.mean([vectors[row["frame_id"]] @ v for v in others]), abs=1e-5
        )


def test_the_files_and_blocks_do_not_matter(table, tmp_path, monkeypatch):
    rows = album()[0]
    other = write_faces(tmp_path / "mixed", rows[::-1], files=4)
    expected = faceq.cluster(table)
    assert faceq.cluster(other) == expected
    monkeypatch.setattr(embedding_pairs, "_ROWS", 3)
    assert faceq.cluster(other) == expected


def test_a_condition_leaves_faces_out(table):
    assert len(faceq.cluster(table, "source < '/photos/10'")) == 10


def test_the_default_threshold_follows_the_number_of_photos(tmp_path, monkeypatch, capsys):
    rows = album()[0]
    table = write_faces(tmp_path / "album", rows)
    assert main(["cluster", table, "--out", str(tmp_path / "people.parquet")]) == 0
    assert "cosine 0.387, the false match rate 1.0e-03" in capsys.readouterr().out  # 25 count as 1,000
    assert pq.read_table(tmp_path / "people.parquet") == faceq.cluster(table)
    monkeypatch.setattr(people, "FMRS", (1e-6, 1e-1))
    assert main(["cluster", table, "--out", str(tmp_path / "people.csv")]) == 0
    assert f"the false match rate {1 / len(rows):.1e}" in capsys.readouterr().out
    still = [{**row, "source": "/a.mp4", "frame_index": i} for i, row in enumerate(rows)]
    film = write_faces(tmp_path / "film", still)
    assert main(["cluster", film, "--out", str(tmp_path / "people.csv")]) == 0
    assert "the false match rate 1.0e-01" in capsys.readouterr().out  # all are frames of one video


def test_thresholds_are_those_that_were_measured():
    assert people.threshold("sface", 1e-2) == pytest.approx(0.317, abs=0.005)
    assert people.threshold("sface", 1e-3) == pytest.approx(0.387, abs=0.005)
    assert people.threshold("sface", 1e-5) == pytest.approx(0.496, abs=0.005)
    assert people.threshold("arcface-r50", 1e-3) == pytest.approx(0.247, abs=0.005)
    for name in ("yunet", "/models/own.onnx", None):
        with pytest.raises(UsageError, match="not known: give --cosine"):
            people.threshold(name, 1e-3)
    assert all(model.recogniser.impostors for model in zoo.MODELS.values() if model.recogniser)


def test_cosine_overrides_the_threshold(table, capsys, tmp_path):
    out = str(tmp_path / "people.csv")
    assert main(["cluster", table, "--cosine", "0.999", "--out", out]) == 0
    assert "0 people with at least two faces; 25 faces belong to nobody" in capsys.readouterr().out
    assert main(["cluster", table, "--cosine", "-1", "--out", out]) == 0
    assert "1 people with at least two faces; 0 faces belong to nobody" in capsys.readouterr().out
    assert main(["cluster", table, "--cosine", "2", "--out", out]) == 2
    assert "must be between -1 and 1" in capsys.readouterr().err


def test_tables_without_embeddings_are_refused(tmp_path):
    table = write_faces(tmp_path / "table", [face("a")], SCHEMA)
    with pytest.raises(UsageError, match=r"has no embeddings: .* --embeddings"):
        faceq.cluster(table)
    own = write_faces(tmp_path / "own", album()[0], preset="no such preset")
    with pytest.raises(UsageError, match="give --cosine"):
        faceq.cluster(own)
    assert len(faceq.cluster(own, cosine=0.5)) == sum(SIZES)


@pytest.mark.parametrize("count", [0, 1])
def test_few_faces_are_nobody(tmp_path, count):
    rows = [*album()[0][:count], face("none")]
    found = faceq.cluster(write_faces(tmp_path / "table", rows))
    assert found["cluster"].to_pylist() == [None] * count


def test_equal_embeddings_are_one_person(tmp_path):
    rows = [face(str(i), embedding=np.eye(8)[0]) for i in range(100)]
    found = faceq.cluster(write_faces(tmp_path / "table", rows))
    assert found["cluster"].to_pylist() == [0] * 100
    assert found["cosine"].to_pylist() == [1.0] * 100

"""The section of the report about a selection."""

import re

import pyarrow.parquet as pq
import pytest

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.report.page import build
from faceq.report.selection import selection_section
from faceq.storage.settings import S3Settings
from jobs.training import synthetic


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("made-up") / "table"
    synthetic.write(folder, 20_000)
    return str(folder)


def test_groups_and_bins_count_what_was_taken_and_left(made_up, tmp_path):
    out = str(tmp_path / "chosen.parquet")
    wanted = ["--per", "source", "--top", "7", "--balance", "yaw:5", "--distinct", "hash:20"]
    assert main(["select", made_up, "serfiq > 0.3", *wanted, "--out", out]) == 0
    with Rows(made_up, S3Settings()) as rows:
        section = selection_section(rows, out, S3Settings(), with_pictures=False)
    chosen = pq.read_table(out)
    candidates = faceq.read_table(made_up, "serfiq > 0.3 and dbcnn is not null and yaw is not null")
    assert section.record["candidates"] == len(candidates)
    assert sum(each.candidates for each in section.bins) == len(candidates)
    assert sum(each.chosen for each in section.bins) == len(chosen)
    of_source = candidates["source"].to_pylist()
    assert len(section.groups) > 10
    for group in section.groups:
        assert group.candidates == of_source.count(group.name)
        assert group.chosen == chosen["group"].to_pylist().count(group.name)
    page = build(made_up, S3Settings(), with_pictures=False, selection=out)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert f"{len(chosen):,} of {len(candidates):,} candidates are chosen, from" in text
    assert "Candidates Yaw and pitch of" not in text and "Head pose before and after" in text
    assert "<img" not in page


def test_the_contact_sheet_shows_the_chosen_faces(looked_at, tmp_path):
    out = str(tmp_path / "chosen.parquet")
    assert main(["select", looked_at, "dbcnn > 0", "--top", "5", "--distinct", "hash:4", "--out", out]) == 0
    with Rows(looked_at, S3Settings()) as rows:
        section = selection_section(rows, out, S3Settings(), with_pictures=True)
    (sheet,) = section.sheets
    chosen = pq.read_table(out).to_pylist()
    assert sheet.chosen == len(chosen) and sheet.lost == 0
    shown = [(face.rank, face.serfiq, face.dbcnn) for face in sheet.faces]
    assert shown == [(row["rank"], row["serfiq"], row["dbcnn"]) for row in chosen]


def test_a_file_that_is_no_selection_of_this_table_is_an_error(made_up, looked_at, tmp_path, capsys):
    out = str(tmp_path / "chosen.parquet")
    assert main(["select", looked_at, "dbcnn > 0", "--top", "2", "--out", out]) == 0
    exported = str(tmp_path / "exported.parquet")
    assert main(["query", looked_at, "dbcnn > 0", "--export", exported]) == 0
    text = tmp_path / "chosen.csv"
    text.write_text("frame_id\n1\n")
    with Rows(made_up, S3Settings()) as rows:
        for path, reason in (
            (out, "is a selection of another table"),
            (exported, "is not a selection: give the .parquet file"),
            (str(text), "is not a selection: give the .parquet file"),
            (str(tmp_path / "none.parquet"), "No such file"),
        ):
            with pytest.raises(UsageError, match=reason):
                selection_section(rows, path, S3Settings(), with_pictures=False)

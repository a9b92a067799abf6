"""A table with a lowered SER-FIQ threshold has the same rows as if the threshold had been low from the
start."""

import pytest
from here import score_here

from faceq.cli import main
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("local_ray")

VALUES = [name for name in SCHEMA.names if name != "run_id"]


@pytest.fixture
def folder(tmp_path, astronaut):
    """A tar and an image. The sharp frames have a `serfiq` of 0.94, the blurred ones 0.68 and 0.14."""
    face = demo._frame_around(astronaut, [200, 60, 80, 110])
    images = [face, demo.degraded(face, "blur", 2, 0), demo.degraded(face, "blur", 4, 0)]
    members = [(f"{number}.jpg", demo._jpeg(image)) for number, image in enumerate(images)]
    demo.write_shards(tmp_path / "in", iter([*members, ("broken.jpg", b"<html>")]))
    (tmp_path / "in" / "blurred.jpg").write_bytes(members[1][1])
    return tmp_path


def rows_of(uri: str) -> list[dict]:
    return Table(uri, S3Settings()).rows(VALUES).sort_by("frame_id").to_pylist()


def test_a_lower_threshold_scores_frames_that_now_pass_and_a_higher_one_none(folder, capsys):
    table = Table(str(folder / "table"), S3Settings())

    def score(threshold: str) -> str:
        arguments = ["score", str(folder / "in"), "--out", table.uri, "--fiq-threshold", threshold]
        assert main.main(arguments) == 0
        out, err = capsys.readouterr()
        return out + err

    score("0.9")
    first = rows_of(table.uri)
    assert [row["status"] for row in first].count("below_fiq") == 3
    said = score("0.6")
    assert "--fiq-threshold 0.6 is lower than in an earlier run: 2 frames" in said
    assert "resuming: 3 frames already done" in said
    assert rows_of(table.uri) == rows_of(
        score_here(str(folder / "in"), str(folder / "fresh"), fiq_threshold=0.6)
    )
    thresholds = [run["config"]["fiq_threshold"] for run in table.runs()]
    assert thresholds == [0.9, 0.6]
    second = table.rows(SCHEMA.names).sort_by("frame_id").to_pylist()
    for threshold in ("0.6", "0.9"):
        said = score(threshold)
        assert "nothing to do" in said and "rows                    5   in the table" in said
        assert "scored                  3    60.0%" in said and "speed" not in said
        higher = "--fiq-threshold 0.9 is higher than the 0.6 of an earlier run: only new frames"
        assert (higher in said) == (threshold == "0.9")
    assert table.rows(SCHEMA.names).sort_by("frame_id").to_pylist() == second
    assert len(table.runs()) == 2
    score("0")
    statuses = [row["status"] for row in rows_of(table.uri)]
    assert sorted(statuses) == ["scored"] * 4 + ["unreadable"]

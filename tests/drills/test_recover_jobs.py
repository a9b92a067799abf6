"""Jobs on tables that earlier jobs left: retries, overwrites, outages, other jobs; scores are stand-ins."""

import subprocess
import sys

import numpy as np
import pytest

from faceq import config
from faceq.cli import main
from faceq.job import pipeline
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("light_job")
OTHER = "20261123T180000Z-bbbbbbbb"


@pytest.fixture
def folder(tmp_path, astronaut):
    (tmp_path / "in").mkdir()
    good = demo._jpeg(astronaut)
    for name, data in (("a.jpg", good), ("b.jpg", good[:9000]), ("c.jpg", b"")):
        (tmp_path / "in" / name).write_bytes(data)
    return tmp_path


def run(folder, *more: str) -> int:
    return main.main(["score", str(folder / "in"), "--out", str(folder / "table"), *more])


def statuses(folder) -> dict[str, str]:
    rows = Table(str(folder / "table"), S3Settings()).rows(["source", "status"]).to_pylist()
    assert len(rows) == len({row["source"] for row in rows})
    return {row["source"].rsplit("/", 1)[1]: row["status"] for row in rows}


def test_unreadable_frames_are_retried_on_request(folder, capsys):
    assert run(folder) == 0
    assert statuses(folder) == {"a.jpg": "scored", "b.jpg": "unreadable", "c.jpg": "unreadable"}
    (folder / "in" / "b.jpg").write_bytes((folder / "in" / "a.jpg").read_bytes())
    assert run(folder) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert statuses(folder)["b.jpg"] == "unreadable"
    assert run(folder, "--retry-unreadable") == 0
    assert "2 frames are tried again" in capsys.readouterr().err
    assert statuses(folder) == {"a.jpg": "scored", "b.jpg": "scored", "c.jpg": "unreadable"}


def test_overwrite_replaces_a_table_of_other_settings(folder, capsys):
    assert run(folder) == 0
    (folder / "job.yaml").write_text("min_face: 30\n")
    other = ["--config", str(folder / "job.yaml"), "--fiq-threshold", "0.99"]
    assert run(folder, *other) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(folder, *other, "--overwrite") == 0
    assert "--overwrite: removed" in capsys.readouterr().err
    assert statuses(folder) == {"a.jpg": "below_fiq", "b.jpg": "unreadable", "c.jpg": "unreadable"}
    assert len(Table(str(folder / "table"), S3Settings()).runs()) == 1


def test_retry_and_limit_exclude_each_other(folder, capsys):
    assert run(folder, "--retry-unreadable", "--limit", "2") == 2
    assert "leave out --limit" in capsys.readouterr().err


def test_a_job_that_could_not_start_leaves_nothing(folder, capsys):
    (folder / "job.yaml").write_text("serfiq: {num_gpus: 1}\n")
    command = [sys.executable, "-m", "faceq", "score", str(folder / "in")]
    more = ["--out", str(folder / "table"), "--config", str(folder / "job.yaml")]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "GPUs" in done.stderr
    assert run(folder) == 0


def test_an_outage_in_the_remaining_frames_is_noticed_at_the_end(tmp_path, astronaut):
    (tmp_path / "in").mkdir()
    good = demo._jpeg(astronaut)
    for i in range(14):
        (tmp_path / "in" / f"{i:02}.jpg").write_bytes(good if i < 2 else b"")
    chosen = config.build({"input": [str(tmp_path / "in")], "out": str(tmp_path / "table")})
    done = pipeline.score(config.build({**chosen.model_dump(), "limit": 2}))
    assert done.run.counts["scored"] == 2
    for i in range(2, 14):  # a broken link: it is listed, but missing when it is read
        (tmp_path / "in" / f"{i:02}.jpg").unlink()
        (tmp_path / "in" / f"{i:02}.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(pipeline.JobError, match="refused all 12 remaining frames, the last with: gone"):
        pipeline.score(chosen)
    for i in range(2, 14):
        (tmp_path / "in" / f"{i:02}.jpg").unlink()
        (tmp_path / "in" / f"{i:02}.jpg").write_bytes(good)
    assert pipeline.score(chosen).run.counts["scored"] == 12


def test_overwrite_keeps_files_that_are_not_the_tables(folder, capsys):
    (folder / "photos").mkdir()
    (folder / "photos" / "x.jpg").write_bytes(b"x")
    arguments = ["score", str(folder / "in"), "--out", str(folder / "photos"), "--overwrite"]
    assert main.main(arguments) == 2
    assert "not a faceq table" in capsys.readouterr().err
    assert (folder / "photos" / "x.jpg").exists()


def test_a_running_job_keeps_others_out(folder, capsys):
    chosen = config.build({"input": [str(folder / "in")], "out": str(folder / "table")})
    table = Table(chosen.out, chosen.s3)
    running = Run(OTHER, "0", [], comparison_record(chosen, choose(chosen)), {}, "", owner=lock.owner())
    with lock.exclusive(table, running):
        for more in ([], ["--overwrite"], ["--retry-unreadable"]):
            assert run(folder, *more) == 2
            assert f"another job is writing here: {OTHER}" in capsys.readouterr().err
    assert run(folder) == 0


def test_frames_lost_to_an_outage_do_not_count_as_done(tmp_path, astronaut):
    good = demo._jpeg(astronaut)
    demo.write_shards(tmp_path / "in", ((f"{i}.jpg", b"<html>503</html>") for i in range(300)))
    chosen = config.build({"input": [str(tmp_path / "in")], "out": str(tmp_path / "table")})
    with pytest.raises(pipeline.JobError, match="stopped: "):
        pipeline.score(chosen)
    for shard in (tmp_path / "in").iterdir():
        shard.unlink()
    (tmp_path / "in").rmdir()
    demo.write_shards(tmp_path / "in", ((f"{i}.jpg", good) for i in range(300) if i < 3 or i == 299))
    done = pipeline.score(chosen)
    assert done.run.counts["scored"] == 4
    assert np.array_equal(
        Table(chosen.out, chosen.s3).rows(["status"])["status"].unique().to_pylist(), ["scored"]
    )

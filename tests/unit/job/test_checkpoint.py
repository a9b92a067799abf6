"""How many rows a job writes to a file, and how long its batches take."""

import pytest

from faceq import config
from faceq.config import Config
from faceq.job import checkpoint
from faceq.sources.listing import Shard

pytestmark = pytest.mark.usefixtures("local_ray")  # two CPUs


LARGE = [Shard(f"/in/{number}.tar", f"/in/{number}.tar", "tar", 1 << 30) for number in range(100)]


def paced(shards: list[Shard] = LARGE, **values) -> Config:
    return checkpoint.with_checkpoint_rows(config.build(values), shards)


def test_on_a_small_machine_a_file_holds_a_few_seconds_of_work():
    usual = paced()
    assert checkpoint.LEAST_ROWS < usual.rows_per_file < 300
    assert usual.serfiq.batch_size == usual.find_face.batch_size == 32
    assert paced(serfiq_passes=1000).rows_per_file < usual.rows_per_file


def test_a_small_job_does_not_wait_for_large_files():
    tar = Shard("/in/a.tar", "/in/a.tar", "tar", 30 << 20)
    pictures = [Shard(f"/in/{i}.jpg", f"/in/{i}.jpg", "picture", 60_000) for i in range(1_200)]
    assert checkpoint.LEAST_ROWS <= paced([tar]).rows_per_file < 60  # of about 500 frames
    assert paced(pictures).rows_per_file == 120


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
def test_files_and_batches_are_small_if_a_frame_takes_seconds(preset):
    slow = paced(preset=preset, dbcnn={"batch_size": 16})
    assert slow.rows_per_file == checkpoint.LEAST_ROWS
    assert slow.find_face.batch_size == slow.serfiq.batch_size == checkpoint.LEAST_BATCH
    assert slow.dbcnn.batch_size == 16


def test_explicit_settings_are_kept():
    assert paced(rows_per_file=7).rows_per_file == 7
    assert paced(rows_per_file=7, preset="cafi").serfiq.batch_size == checkpoint.LEAST_BATCH


def test_on_clusters_and_gpus_a_file_has_a_thousand_rows(monkeypatch):
    assert paced(preset="cafi", dbcnn={"num_gpus": 0.5}).rows_per_file == checkpoint.MOST_ROWS
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    cluster = paced(preset="cafi")
    assert cluster.rows_per_file == checkpoint.MOST_ROWS and cluster.serfiq.batch_size == 32

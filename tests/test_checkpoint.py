"""How many rows a job writes together, and how long its batches take."""

import pytest

from faceq import checkpoint, config
from faceq.config import Config

pytestmark = pytest.mark.usefixtures("local_ray")  # two CPUs


def paced(**values) -> Config:
    return checkpoint.paced(config.build(values))


def test_on_a_small_machine_a_file_is_some_seconds_work():
    usual = paced()
    assert checkpoint.LEAST_ROWS < usual.rows_per_file < 300
    assert usual.serfiq.batch_size == usual.find_face.batch_size == 32
    assert paced(serfiq_passes=1000).rows_per_file < usual.rows_per_file


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
def test_where_a_frame_takes_seconds_files_and_batches_are_small(preset):
    slow = paced(preset=preset, dbcnn={"batch_size": 16})
    assert slow.rows_per_file == checkpoint.LEAST_ROWS
    assert slow.find_face.batch_size == slow.serfiq.batch_size == checkpoint.LEAST_BATCH
    assert slow.dbcnn.batch_size == 16


def test_what_is_set_holds():
    assert paced(rows_per_file=7).rows_per_file == 7
    assert paced(rows_per_file=7, preset="cafi").serfiq.batch_size == checkpoint.LEAST_BATCH


def test_on_clusters_and_cards_it_is_a_thousand_rows(monkeypatch):
    assert paced(preset="cafi", dbcnn={"num_gpus": 0.5}).rows_per_file == checkpoint.MOST_ROWS
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    cluster = paced(preset="cafi")
    assert cluster.rows_per_file == checkpoint.MOST_ROWS and cluster.serfiq.batch_size == 32

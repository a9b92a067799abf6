"""A Scorer loads its models once and scores many times, also from several threads."""

import io
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import faceq
from faceq.runtime import device

SETTINGS = {"fiq_threshold": 0, "serfiq": {"mini_batch": 1}, "dbcnn": {"mini_batch": 1}}
"""Mini-batches of one: with larger ones, a single image would take as long as a whole mini-batch."""


@pytest.fixture(scope="module")
def scorer() -> faceq.Scorer:
    return faceq.Scorer(**SETTINGS)


@pytest.fixture(scope="module")
def picture(astronaut: np.ndarray) -> bytes:
    """A JPEG of 512x512 pixels."""
    file = io.BytesIO()
    Image.fromarray(astronaut).save(file, "JPEG", quality=95)
    return file.getvalue()


def values(table: pa.Table) -> pa.Table:
    return table.drop_columns(["run_id"])


@pytest.mark.skipif(device.gpus() > 0, reason="this machine has a GPU")
def test_the_models_of_the_embedded_preset_load_and_score_without_torch():
    """torch takes a second to import, in every process."""
    code = (
        "import sys, faceq, skimage.data\n"
        "scored = faceq.score_images([skimage.data.astronaut()])\n"
        "assert scored['status'].to_pylist() == ['scored']\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_rows_are_those_of_score_images_at_every_call(scorer, picture, astronaut, photos):
    pictures = [picture, astronaut, photos / "t1.jpg", b"no picture"]
    expected = faceq.score_images(pictures, **SETTINGS)
    first, second = scorer.score(pictures), scorer(iter(pictures))
    assert first.schema == expected.schema
    assert values(first).equals(values(expected)) and values(second).equals(values(expected))
    assert len(set(first["run_id"].to_pylist())) == 1 and first["run_id"][0] != second["run_id"][0]
    assert scorer.score([]).schema == expected.schema


def test_a_wrong_setting_or_picture_is_a_usage_error(scorer):
    with pytest.raises(faceq.UsageError, match="unknown key 'fiq_treshold'"):
        faceq.Scorer(fiq_treshold=0)
    with pytest.raises(faceq.UsageError, match="image:0: expected a path"):
        scorer.score([1])


def test_threads_that_share_a_scorer_get_the_same_rows(scorer, picture, astronaut):
    expected = {name: values(scorer.score([image])) for name, image in (("a", picture), ("b", astronaut))}
    found: list[tuple[str, pa.Table]] = []

    def score(name: str, image: object) -> None:
        for _ in range(2):
            found.append((name, values(scorer.score([image]))))

    threads = [threading.Thread(target=score, args=given) for given in (("a", picture), ("b", astronaut)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(table.equals(expected[name]) for name, table in found)


def test_an_image_takes_little_more_time_than_the_stages(scorer, picture, monkeypatch):
    """Both times are measured in one call, so that a busy machine hardly changes their ratio."""
    inside = [0.0]

    def timed(stage):
        def run(batch: pa.Table) -> pa.Table:
            started = time.perf_counter()
            batch = stage(batch)
            inside[0] += time.perf_counter() - started
            return batch

        return run

    monkeypatch.setattr(scorer, "_stages", [timed(stage) for stage in scorer._stages])
    ratios = []
    for _ in range(15):
        inside[0] = 0.0
        started = time.perf_counter()
        scorer.score([picture])
        ratios.append((time.perf_counter() - started) / inside[0])
    assert statistics.median(ratios) < 1.1

"""The gates for lower precision: which differences hold, which fail, and what is printed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from faceq import config
from faceq.evaluation.whole_images import lite_views
from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS
from faceq.iqa.torch_quality import TorchQuality
from faceq.stages.chosen_models import choose
from faceq.stages.scores import ScoreQuality
from jobs.benchmarks import check_precision
from jobs.benchmarks.check_precision import Labels, Scores

FACES_OF_ONE = 10


@pytest.fixture(scope="module")
def labels() -> Labels:
    rated = {Path(f"r{number}.jpg"): float(number) for number in range(200)}
    people = {Path(f"p{number}.jpg"): str(number // FACES_OF_ONE) for number in range(40 * FACES_OF_ONE)}
    return Labels(rated, people)


def scores(labels: Labels, noise: float = 0.0, lost: int = 0) -> Scores:
    """Scores of faces whose embeddings are further from their person's the worse they are, with an error."""
    rng = np.random.default_rng(1)
    rated = np.array(list(labels.rated.values())) + rng.normal(0, 30, len(labels.rated))
    people = np.array(list(labels.people.values())).astype(int)
    quality = rng.uniform(0.2, 1, len(people))
    embeddings = rng.normal(size=(people.max() + 1, 64))[people]
    embeddings += rng.normal(size=embeddings.shape) / quality[:, None]
    error = np.random.default_rng(2)
    quality = quality + noise * error.normal(size=quality.shape)
    embeddings = embeddings + noise * error.normal(size=embeddings.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = np.arange(len(people)) >= lost
    rows = pa.table(
        {
            "status": ["scored" if there else "no_face" for there in found],
            "serfiq_raw": [value if there else None for value, there in zip(quality, found, strict=True)],
            "dbcnn": (100 * quality).tolist(),
            "embedding": embeddings.astype(np.float32).tolist(),
            "landmarks": np.zeros((len(people), 10), np.float32).tolist(),
        }
    )
    return Scores(rated + 30 * noise * error.normal(size=rated.shape), rows)


def test_equal_scores_pass_every_gate(labels) -> None:
    lines = list(check_precision.compared(scores(labels), scores(labels), labels))
    assert [line.holds for line in lines].count(True) == 1 + 6 + 3
    assert not [line for line in lines if line.holds is False]
    assert 0 < lines[1].base == lines[1].other < 1  # FNMR
    assert lines[2].base < 0.97  # pAUC: the score predicts errors


@pytest.mark.parametrize("noise", [1e-4, 0.3])
def test_a_small_error_passes_and_a_large_one_fails_every_gate(labels, noise) -> None:
    lines = list(check_precision.compared(scores(labels), scores(labels, noise), labels))
    failed = [line.name for line in lines if line.holds is False]
    assert (not failed) if noise < 0.01 else ({"SRCC of DB-CNN", "rank correlation, SER-FIQ"} < set(failed))


def test_faces_that_only_one_of_them_finds_are_counted_and_left_out(labels) -> None:
    lines = {
        line.name: line for line in check_precision.compared(scores(labels), scores(labels, lost=7), labels)
    }
    assert lines["photos with another status"].difference == "7"
    assert lines["FNMR at FMR 0.01"].holds


def test_the_score_of_a_whole_image_is_the_mean_over_its_crops(tmp_path, astronaut) -> None:
    settings = config.build({})
    stage = ScoreQuality(settings, choose(settings))
    path = tmp_path / "image.png"
    Image.fromarray(astronaut).save(path)
    views = lite_views(astronaut, side=256)
    network = TorchQuality(load_dbcnn_lite(DBCNN_LITE_WEIGHTS), "cpu", half=False)
    (wanted,) = network(views, np.ones(views.shape[:3], np.float32))
    found = check_precision.whole_image_score(stage, 256, path)
    assert found == pytest.approx(float(wanted.mean()), abs=2e-3)

"""SER-FIQ's closed form against the published way, on real faces."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from faceq import geometry, models, serfiq
from faceq.decode import decode
from faceq.detect import YuNet
from faceq.distortions import LADDERS
from faceq.recognise import Backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(models.fetch("sface"))


@pytest.fixture(scope="module")
def faces(astronaut, photos) -> np.ndarray:
    """Aligned faces, (66, 112, 112, 3): seven people and copies spoiled in many ways."""
    detector = YuNet(models.fetch("yunet"), 0.6)
    sharp = [geometry.align(astronaut, detector(astronaut)[0].landmarks)]
    group = decode((photos / "t1.jpg").read_bytes(), 10**7)
    sharp += [geometry.align(group, face.landmarks) for face in detector(group)]
    spoiled = [
        degrade(face, severity, seed)
        for seed, face in enumerate(sharp)
        for degrade in (LADDERS["blur"], LADDERS["noise"], LADDERS["jpeg"], LADDERS["low_light"])
        for severity in (2, 4)
    ]
    return np.stack(sharp + spoiled + [255 - face for face in sharp[:3]])


@pytest.fixture(scope="module")
def features(backbone, faces) -> np.ndarray:
    return np.concatenate([backbone(faces[i : i + 11]) for i in range(0, len(faces), 11)])


def test_closed_form_ranks_as_1500_passes_do(backbone, features):
    closed, _ = serfiq.ClosedForm(backbone.head)(torch.from_numpy(features))
    drawn = serfiq.monte_carlo_distance(features, backbone.head, passes=1500, seed=0)
    assert len(features) >= 60
    assert spearmanr(closed, drawn).statistic >= 0.999
    assert np.abs(closed / drawn - 1).max() < 0.03


def test_more_passes_come_closer_to_the_closed_form(backbone, features):
    closed, _ = serfiq.ClosedForm(backbone.head)(torch.from_numpy(features[:12]))
    apart = [
        np.abs(serfiq.monte_carlo_distance(features[:12], backbone.head, passes, seed=1) / closed - 1).mean()
        for passes in (4, 400)
    ]
    assert apart[1] < apart[0]


def test_score_and_calibration_have_the_published_shape():
    assert serfiq.score(np.array([0.0])) == 1
    assert np.isclose(serfiq.score(np.array([0.2])), 2 / (1 + np.e**0.2))
    assert np.isclose(serfiq.calibrated(np.array([0.88]), slope=80, threshold=0.88), 0.5)


def test_norm_is_the_length_of_the_embedding(backbone, features):
    _, norm = serfiq.ClosedForm(backbone.head)(torch.from_numpy(features[:5]))
    embedding = features[:5] @ backbone.head.weight.T + backbone.head.bias
    assert np.allclose(norm, np.linalg.norm(embedding, axis=1), rtol=1e-5)

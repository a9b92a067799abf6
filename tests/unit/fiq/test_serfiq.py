"""SER-FIQ's closed form compared with the published method, on real faces."""

import numpy as np
import pytest
import torch
from closed_form import aligned_faces, closed_form_error, features_of

from faceq.fiq import recogniser, serfiq
from faceq.fiq.monte_carlo import MonteCarlo
from faceq.fiq.recogniser import Backbone
from faceq.fiq.serfiq import ClosedForm, DropoutError, Head


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return recogniser.from_zoo("sface")


@pytest.fixture(scope="module")
def faces(astronaut, photos) -> np.ndarray:
    return aligned_faces(astronaut, photos)


@pytest.fixture(scope="module")
def features(backbone, faces) -> np.ndarray:
    return features_of(backbone, faces)


def test_closed_form_agrees_with_1500_passes(backbone, features):
    """On every sixth face; `tests/drills/test_closed_form.py` takes all of them."""
    error, rank_correlation = closed_form_error(backbone, features[::6], passes=1500)
    assert len(error) >= 10
    assert abs(error.mean()) < 0.001
    assert np.abs(error).max() < 0.01  # most of it is the noise of the passes
    assert rank_correlation >= 0.99


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("outputs", [64, 512])
def test_closed_form_holds_for_other_layers(rate, outputs):
    """Other rates and widths, and embeddings that vary far more than those of any face. Few dimensions are
    the harder case."""
    generator = np.random.default_rng(int(rate * 10) + outputs)
    weight = generator.standard_normal((outputs, 3000)).astype(np.float32)
    head = Head(weight, generator.standard_normal(outputs).astype(np.float32), rate)
    signal = generator.standard_normal((4, outputs)).astype(np.float32)
    features = signal @ weight / 500 + generator.standard_normal((4, 3000)).astype(np.float32)
    closed, _ = ClosedForm(head)(features)
    drawn, _ = MonteCarlo(head, 2000)(torch.from_numpy(features), range(4))
    assert np.abs(closed / drawn - 1).max() < 0.015


def test_a_random_direction_is_root_two_away():
    generator = np.random.default_rng(0)
    head = Head(generator.standard_normal((128, 4000)).astype(np.float32), np.zeros(128, np.float32), 0.999)
    distance, _ = ClosedForm(head)(np.ones((1, 4000), np.float32))
    assert 1.35 < distance[0] < np.sqrt(2)


def test_draws_depend_on_the_seed_and_nothing_else(backbone, features, faces):
    seeds = [serfiq.seed_of(face) for face in faces[:5]]
    draw, features = MonteCarlo(backbone.head, 20), torch.from_numpy(features)
    together, _ = draw(features[:5], seeds)
    alone = [draw(features[i : i + 1], seeds[i : i + 1])[0][0] for i in range(5)]
    assert together.tolist() == alone
    assert draw(features[:5], seeds)[0].tolist() == alone
    assert draw(features[:1], [seeds[0] + 1])[0][0] != alone[0]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**64 for seed in seeds)


def test_passes_keep_the_rate_and_the_mean():
    """With an identity as the last layer, the outputs are the dropout masks."""
    head = Head(np.eye(8, dtype=np.float32), np.zeros(8, np.float32), 0.4)
    draws = MonteCarlo(head, 20_000)._draws(torch.arange(1.0, 9.0), seed=3).numpy()
    assert np.allclose((draws == 0).mean(axis=0), 0.4, atol=0.015)
    assert np.allclose(draws.mean(axis=0), np.arange(1, 9), rtol=0.03)
    assert np.allclose(np.corrcoef(draws.T), np.eye(8), atol=0.03)


def test_more_passes_come_closer_to_the_closed_form(backbone, features):
    closed, _ = ClosedForm(backbone.head)(features[:12])
    apart = [
        np.abs(
            MonteCarlo(backbone.head, passes)(torch.from_numpy(features[:12]), range(12))[0] / closed - 1
        ).mean()
        for passes in (4, 400)
    ]
    assert apart[1] < apart[0]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (Head(np.ones((4, 8), np.float32), np.ones(4, np.float32), 0.0), "the dropout rate is 0"),
        (Head(np.ones((4, 8), np.float32), np.ones(4, np.float32), 1.0), "the dropout rate is 1"),
        (Head(np.zeros((4, 8), np.float32), np.ones(4, np.float32), 0.4), "weights are all zero"),
        (Head(np.full((4, 8), np.nan, np.float32), np.ones(4, np.float32), 0.4), "not finite"),
    ],
)
def test_dropout_that_changes_nothing_is_an_error(head, said):
    for kind in (ClosedForm, lambda head: MonteCarlo(head, 10)):
        with pytest.raises(DropoutError, match=said):
            kind(head)


def test_a_face_that_dropout_cannot_change_is_an_error_not_a_perfect_score():
    head = Head(np.eye(4, dtype=np.float32), np.ones(4, np.float32), 0.4)
    for features in (np.zeros((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)):
        drawn = MonteCarlo(head, 10)(torch.from_numpy(features), [0])
        for found in (ClosedForm(head)(features), drawn):
            assert not serfiq.is_valid(*found).any()
            with pytest.raises(DropoutError, match="all dropout passes of a face are equal"):
                serfiq.check_distances(*found)


def test_score_and_calibration_have_the_published_shape():
    assert serfiq.score(np.array([0.0])) == 1
    assert np.isclose(serfiq.score(np.array([0.2])), 2 / (1 + np.e**0.2))
    assert np.isclose(serfiq.calibrated(np.array([0.88]), slope=80, threshold=0.88), 0.5)


def test_both_methods_give_the_embedding_without_dropout(backbone, features):
    wanted = features[:5] @ backbone.head.weight.T + backbone.head.bias
    for _, embedding in (
        ClosedForm(backbone.head)(features[:5]),
        MonteCarlo(backbone.head, 2)(torch.from_numpy(features[:5]), range(5)),
    ):
        assert np.allclose(embedding, wanted, rtol=1e-4, atol=1e-4)

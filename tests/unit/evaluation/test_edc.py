"""Error-versus-discard curves: known results, and properties that hold for any scores."""

import numpy as np
import pytest

from faceq.evaluation import edc


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """40 people with 8 faces each. The lower the quality of a face, the more its embedding deviates."""
    generator = np.random.default_rng(2)
    people = np.repeat(np.arange(40), 8)
    quality = generator.uniform(0, 1, len(people))
    home = generator.standard_normal((40, 32))[people]
    embeddings = unit(home + 1.8 * (1 - quality)[:, None] * generator.standard_normal((len(people), 32)))
    return people, quality, embeddings


@pytest.fixture(scope="module")
def results(world):
    people, quality, embeddings = world
    genuine, impostor = edc.genuine_pairs(people, embeddings), edc.impostor_pairs(people, embeddings)
    generator = np.random.default_rng(3)
    scores = {
        "true": quality,
        "noisy": quality + generator.normal(0, 0.3, len(quality)),
        "constant": np.ones(len(quality)),
        "random": generator.random(len(quality)),
        "backwards": -quality,
    }
    return {(r.quality, r.fmr): r for r in edc.evaluate(genuine, impostor, people, scores)}


def test_a_curve_worked_out_by_hand():
    """Ten pairs. The three of lowest quality are false non-matches, and so is one pair of high quality."""
    worst = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    similarity = np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9], np.float32)
    curve = edc.curve(worst, similarity, threshold=0.5)
    assert curve.discarded.tolist() == pytest.approx([i / 10 for i in range(10)])
    assert curve.fnmr[:4].tolist() == pytest.approx([4 / 10, 3 / 9, 2 / 8, 1 / 7])
    # Up to 20%: 0.4 over the first tenth, a third over the second.
    assert curve.relative_area(0.2) == pytest.approx((0.4 + 1 / 3) / 2 / 0.4)
    assert curve.relative_area(0.25) == pytest.approx((0.1 * 0.4 + 0.1 / 3 + 0.05 / 4) / 0.25 / 0.4)


def test_ties_are_discarded_together():
    worst = np.array([1, 1, 1, 2, 2])
    similarity = np.array([0.1, 0.9, 0.9, 0.9, 0.9], np.float32)
    curve = edc.curve(worst, similarity, threshold=0.5)
    assert curve.discarded.tolist() == [0, 0.6] and curve.fnmr.tolist() == [0.2, 0]
    shuffled = edc.curve(worst[::-1], similarity[::-1], threshold=0.5)
    assert shuffled.fnmr.tolist() == curve.fnmr.tolist()
    assert curve.relative_area(0.3) == 1  # all three ties are discarded together, at 60%


def test_without_errors_the_relative_area_is_nan():
    curve = edc.curve(np.arange(3), np.ones(3, np.float32), threshold=0.5)
    assert np.isnan(curve.relative_area(0.3))


def test_the_threshold_gives_at_most_the_requested_match_rate():
    similarity = np.random.default_rng(0).permutation(np.linspace(-1, 1, 10_000)).astype(np.float32)
    for fmr in (1e-2, 1e-3, 1e-4):
        assert (similarity >= edc.threshold_at(similarity, fmr)).mean() == pytest.approx(fmr)
    # With ties at the threshold, none of them match, because the rate is a maximum.
    tied = np.array([0.9] * 5 + [0.1] * 95, np.float32)
    assert (tied >= edc.threshold_at(tied, 0.03)).sum() == 0
    assert (tied >= edc.threshold_at(tied, 0.05)).sum() == 5


def test_a_better_score_has_a_smaller_area(results):
    for fmr in edc.FMRS[:2]:
        areas = {name: results[name, fmr].pauc[-1] for name in ("true", "noisy", "random", "backwards")}
        assert areas["true"] < areas["noisy"] < areas["random"] < areas["backwards"]
        assert areas["true"] < 0.9
        assert results["random", fmr].low < 1 < results["random", fmr].high
        assert results["constant", fmr].pauc == (1.0, 1.0)


def test_the_interval_contains_the_area(results):
    for result in results.values():
        if result.fnmr > 0.01:
            assert result.low <= result.pauc[-1] <= result.high


def test_errors_rise_as_the_match_rate_falls(results):
    rates = [results["true", fmr].fnmr for fmr in edc.FMRS]
    assert 0 < rates[0] < rates[1] < rates[2] < 1


def test_the_same_seed_gives_the_same_figures(world):
    people, quality, embeddings = world
    genuine, impostor = edc.genuine_pairs(people, embeddings), edc.impostor_pairs(people, embeddings)
    one, other, third = (
        edc.evaluate(genuine, impostor, people, {"q": quality}, [1e-3], seed)[0] for seed in (0, 0, 1)
    )
    assert one.resampled.tolist() == other.resampled.tolist() != third.resampled.tolist()
    assert one.pauc == third.pauc


def test_pairs_are_all_pairs_up_to_the_cap(world):
    people, _, embeddings = world
    genuine = edc.genuine_pairs(people, embeddings)
    assert len(genuine.first) == 40 * 28
    assert (people[genuine.first] == people[genuine.second]).all()
    assert genuine.similarity[0] == pytest.approx(embeddings[0] @ embeddings[1], abs=1e-6)
    capped = edc.genuine_pairs(people, embeddings, cap=10)
    assert np.bincount(people[capped.first]).tolist() == [10] * 40
    impostor = edc.impostor_pairs(people, embeddings)
    assert len(impostor.first) == 320 * 319 // 2 - 40 * 28


@pytest.mark.parametrize("count", [1, 2, 3, 10, 57])
def test_pairs_are_numbered_as_numpy_numbers_them(count):
    first, second = np.triu_indices(count, k=1)
    found = edc._pairs_at(np.arange(len(first)), count)
    assert np.array_equal(found, (first, second))


def test_one_person_with_a_hundred_thousand_faces_needs_no_list_of_all_pairs():
    people = np.zeros(100_000, np.int64)
    pairs = edc.genuine_pairs(people, np.ones((len(people), 1), np.float32))
    assert len(pairs.first) == edc.GENUINE_PER_PERSON and (pairs.first < pairs.second).all()
    assert pairs.second.max() < len(people)


def test_drawn_impostors_are_distinct_and_of_two_people(world):
    people, _, embeddings = world
    drawn = edc.impostor_pairs(people, embeddings, most=20_000)
    pairs = set(zip(drawn.first.tolist(), drawn.second.tolist(), strict=True))
    assert len(pairs) == len(drawn.first) == 20_000
    assert (people[drawn.first] != people[drawn.second]).all()
    every = edc.impostor_pairs(people, embeddings)
    assert drawn.similarity.mean() == pytest.approx(every.similarity.mean(), abs=0.005)


def test_few_people_with_pairs_give_figures_where_there_are_any():
    """Only one of three people has two photos. Resamples without this person give no figure, and none
    fails."""
    generator = np.random.default_rng(0)
    people = np.array([0, 0, 1, 2])
    embeddings = unit(generator.standard_normal((4, 8)))
    genuine, impostor = edc.genuine_pairs(people, embeddings), edc.impostor_pairs(people, embeddings)
    (result,) = edc.evaluate(genuine, impostor, people, {"q": np.arange(4.0)}, [0.2])
    assert len(genuine.first) == 1 and len(impostor.first) == 5
    assert np.isnan(result.resampled).any()


def test_one_person_with_nearly_all_photos_is_no_problem():
    people = np.array([0] * 6000 + [1] * 20)
    embeddings = unit(np.random.default_rng(0).standard_normal((len(people), 4)))
    drawn = edc.impostor_pairs(people, embeddings, most=50_000)
    assert len(drawn.first) == 50_000
    assert (people[drawn.first] == 0).all() and (people[drawn.second] == 1).all()

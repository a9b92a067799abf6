"""Precision and recall of a clustering, by counting pairs and faces one by one."""

import itertools

import numpy as np
import pytest

from faceq.evaluation.clusters import bcubed, pairwise


def test_both_are_what_counting_gives():
    generator = np.random.default_rng(0)
    clusters, people = generator.integers(-1, 6, 60), generator.integers(0, 5, 60)
    alone = np.where(clusters < 0, 100 + np.arange(60), clusters)
    pairs = [(alone[i] == alone[j], people[i] == people[j]) for i, j in itertools.combinations(range(60), 2)]
    both = sum(one and other for one, other in pairs)
    found = pairwise(clusters, people)
    assert found.precision == pytest.approx(both / sum(one for one, _ in pairs))
    assert found.recall == pytest.approx(both / sum(other for _, other in pairs))
    of_faces = [
        [((alone == alone[i]) & (people == people[i])).sum() / (of == of[i]).sum() for i in range(60)]
        for of in (alone, people)
    ]
    found = bcubed(clusters, people)
    assert [found.precision, found.recall] == pytest.approx(np.mean(of_faces, axis=1))


def test_a_perfect_clustering_and_none_at_all():
    people = np.array([0, 0, 1, 1, 1])
    assert pairwise(people + 3, people).f == bcubed(people + 3, people).f == 1
    nothing = np.full(5, -1)
    assert np.isnan(pairwise(nothing, people).precision) and pairwise(nothing, people).recall == 0
    assert bcubed(nothing, people).precision == 1

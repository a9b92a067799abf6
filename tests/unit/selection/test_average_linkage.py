"""Average linkage gives the clusters of SciPy's, and no two clusters are as similar as the threshold."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from faceq.selection import embedding_pairs
from faceq.selection.average_linkage import average_linkage, equal_pairs
from faceq.selection.embedding_pairs import nearest


def people(count: int, each: int, spread: float, seed: int) -> np.ndarray:
    """(count * each, 24) float32 unit vectors around `count` directions."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.standard_normal((count, 24)), each, axis=0)
    found = centres + spread * generator.standard_normal(centres.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def by_scipy(vectors: np.ndarray, cosine: float) -> np.ndarray:
    """The clusters, numbered by their first members."""
    distance = 1 - vectors.astype(np.float64) @ vectors.T
    tree = linkage(squareform(np.maximum(distance, 0), checks=False), "average")
    _, first, places = np.unique(
        fcluster(tree, 1 - cosine, "distance"), return_index=True, return_inverse=True
    )
    return first[places]


@pytest.mark.parametrize("cosine", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_clusters_are_those_of_scipy(cosine, seed):
    vectors = people(12, 15, 0.8, seed)
    expected = by_scipy(vectors, cosine)
    assert average_linkage(vectors, cosine, neighbours=179).tolist() == expected.tolist()
    assert len(set(expected)) < 180 or cosine == 0.8


def one_after_the_other(vectors: np.ndarray, cosine: float, apart: set[tuple[int, int]]) -> list[int]:
    """The clusters if the two most similar ones are merged, again and again, of those that may be."""
    cosines = vectors.astype(np.float64) @ vectors.T
    clusters = [[i] for i in range(len(vectors))]
    while True:
        allowed = [
            (cosines[np.ix_(one, other)].mean(), i, j)
            for i, one in enumerate(clusters)
            for j, other in enumerate(clusters[:i])
            if not any((a, b) in apart or (b, a) in apart for a in one for b in other)
        ]
        if not allowed or max(allowed)[0] < cosine:
            break
        _, i, j = max(allowed)
        clusters[j] += clusters.pop(i)
    first = {member: min(cluster) for cluster in clusters for member in cluster}
    return [first[i] for i in range(len(vectors))]


@pytest.mark.parametrize("cosine", [-1.0, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_that_are_apart_are_never_in_one_cluster(cosine, seed):
    vectors = people(4, 10, 0.8, seed)
    apart = equal_pairs(np.random.default_rng(seed).integers(0, 15, 40))
    labels = average_linkage(vectors, cosine, 39, apart)
    assert (labels[apart[0]] != labels[apart[1]]).all()
    pairs = set(zip(*apart.tolist(), strict=True))
    assert labels.tolist() == one_after_the_other(vectors, cosine, pairs)
    assert labels.tolist() != average_linkage(vectors, cosine, 39).tolist()


def test_all_equal_pairs_are_found():
    values = np.array([7, 3, 7, 5, 7, 3])
    pairs = {tuple(sorted(pair)) for pair in equal_pairs(values).T.tolist()}
    assert pairs == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert equal_pairs(values[:0]).shape == equal_pairs(np.arange(5)).shape == (2, 0)


@pytest.mark.parametrize("neighbours", [1, 4])
def test_no_two_clusters_are_similar_however_few_neighbours_are_searched(neighbours):
    vectors = people(20, 30, 0.7, 5)
    labels = average_linkage(vectors, 0.3, neighbours)
    names = np.unique(labels)
    means = np.stack([vectors[labels == name].mean(0) for name in names])
    cosines = means @ means.T
    np.fill_diagonal(cosines, -1)
    assert cosines.max() < 0.3
    assert 2 <= len(names) <= 60


def test_equal_vectors_are_one_cluster():
    vectors = np.tile(people(1, 1, 0.0, 0), (500, 1))
    assert average_linkage(vectors, 0.9).tolist() == [0] * 500


@pytest.mark.parametrize("count", [0, 1])
def test_few_vectors(count):
    assert average_linkage(people(count, 1, 0.1, 0), 0.5).tolist() == list(range(count))


def test_the_nearest_are_found_in_small_blocks(monkeypatch):
    vectors = people(10, 20, 1.0, 3)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    ranks = np.argsort(np.argsort(-cosines, axis=1), axis=1)
    near = ((ranks < 5) | (ranks.T < 5)) & (cosines >= 0.2)
    expected = list(zip(*np.nonzero(np.triu(near)), strict=True))
    for rows, columns in ((1024, 8192), (16, 32), (7, 64)):
        monkeypatch.setattr(embedding_pairs, "_ROWS", rows)
        monkeypatch.setattr(embedding_pairs, "_COLUMNS", columns)
        assert list(zip(*nearest(vectors, 5, 0.2), strict=True)) == expected


def test_only_the_nearest_of_crowds_are_kept():
    """Frames of a video: each is near to all others."""
    vectors = people(2, 300, 0.2, 4)
    first, second = nearest(vectors, 3, 0.5)
    assert 600 < len(first) < 600 * 4
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    ranks = np.argsort(np.argsort(-cosines, axis=1), axis=1)
    near = (ranks < 3) | (ranks.T < 3)
    expected = list(zip(*np.nonzero(np.triu(near)), strict=True))
    assert list(zip(first, second, strict=True)) == expected

"""Agglomerative clustering with average linkage of embeddings, by cosine. Pure functions.

The similarity of two clusters is the mean cosine of all pairs between them. The two most similar clusters are
merged, until no two are as similar as a threshold. Clusters of which a pair is known to be different are
never merged.

The mean cosine is the dot product of the clusters' mean vectors, so no matrix of distances is needed.
Clusters that are each other's most similar are merged at the same time: with average linkage this gives the
same clusters as one merge after the other (reciprocal nearest neighbours; Müllner, "Modern Hierarchical,
Agglomerative Clustering Algorithms", 2011; Sumengen et al., "Scaling Hierarchical Agglomerative Clustering to
Billion-sized Datasets", 2021). A forbidden merge does not change that: it counts as a similarity below all
others, so a merged cluster is still never nearer to a third one than both of its parts were.
"""

import numpy as np

from faceq.selection.embedding_pairs import dots, nearest
from faceq.table.schema import isin_sorted

NEIGHBOURS = 32
"""Neighbours of a cluster that are candidates for a merge. When no candidate is left, they are searched again
among the merged clusters."""


def average_linkage(
    vectors: np.ndarray, cosine: float, neighbours: int = NEIGHBOURS, apart: np.ndarray | None = None
) -> np.ndarray:
    """Divide embeddings into clusters, so that the mean cosine of each two clusters is below `cosine`, unless
    they may not be merged.

    With at most `neighbours` + 1 embeddings, the result is that of exact average linkage.

    Args:
        vectors: (N, D) float32, L2 norm 1.
        cosine: the threshold, -1 to 1.
        neighbours: see NEIGHBOURS.
        apart: (2, P) int64, positions of pairs that are never in one cluster; None: there are none.

    Returns:
        (N,) int64: the cluster of each embedding, numbered by its first member.
    """
    labels = np.arange(len(vectors))
    # The clusters that may still be merged: their names, sums of vectors and sizes.
    names, sums, sizes = labels, vectors, np.ones(len(vectors), np.int64)
    apart = _distinct(np.empty((2, 0), np.int64) if apart is None else apart, len(names))
    while len(names) > 1:
        first, second = nearest(sums / sizes[:, None].astype(np.float32), neighbours, cosine)
        allowed = ~_are_among(first, second, apart, len(names))
        first, second = first[allowed], second[allowed]
        if not len(first):
            break
        # A cluster without a similar one has none later: a mean of two cosines is not above the larger one.
        open_, (first, second) = _renumbered(first, second)
        apart = _among_kept(apart, open_, len(names))
        owner, sums, sizes = _merge(sums[open_], sizes[open_], first, second, cosine, apart)
        names = names[open_]
        target = np.arange(len(labels))
        target[names] = names[owner]
        labels = target[labels]
        roots = np.flatnonzero(owner == np.arange(len(owner)))
        apart = _among_kept(owner[apart], roots, len(owner))
        names, sums, sizes = names[roots], sums[roots], sizes[roots]
    return labels


def equal_pairs(values: np.ndarray) -> np.ndarray:
    """(2, P) int64: the positions of all pairs of equal values (N,)."""
    order = np.argsort(values, kind="stable")
    ranked, found = values[order], [np.empty((2, 0), np.int64)]
    for distance in range(1, len(values)):
        equal = np.flatnonzero(ranked[distance:] == ranked[:-distance])
        if not len(equal):
            break
        found.append(np.stack([order[equal], order[equal + distance]]))
    return np.concatenate(found, axis=1)


def _distinct(pairs: np.ndarray, count: int) -> np.ndarray:
    """The pairs (2, P) of `count` nodes, the lower one first, each once, sorted."""
    keys = np.unique(pairs.min(0) * count + pairs.max(0))
    return np.stack(np.divmod(keys, max(count, 1)))


def _are_among(first: np.ndarray, second: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    """(E,) bool: which edges (E,) of `count` nodes, first < second, are among the pairs of `_distinct`."""
    return isin_sorted(first * count + second, pairs[0] * count + pairs[1])


def _among_kept(pairs: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """The pairs (2, P) of `count` nodes between those that are kept, by their positions in `kept`."""
    place = np.full(count, -1)
    place[kept] = np.arange(len(kept))
    moved = place[pairs]
    return _distinct(moved[:, (moved >= 0).all(0)], len(kept))


def _renumbered(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of some edges, and the edges between their positions."""
    nodes, places = np.unique(np.stack([first, second]), return_inverse=True)
    return nodes, places.reshape(2, -1)


def _merge(
    sums: np.ndarray,
    sizes: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    cosine: float,
    apart: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge along edges until no edge joins clusters that are similar enough, and not apart.

    Returns:
        (M,) int64, the node whose name the cluster of each node has, the smallest; the sums and the sizes at
        these nodes.
    """
    means = sums / sizes[:, None].astype(np.float32)
    sums, sizes = sums.copy(), sizes.copy()
    owner = np.arange(len(sums))
    similarity = dots(means, first, second)
    while len(first):
        keep, absorbed = _reciprocal(first, second, similarity, len(sums))
        sums[keep] += sums[absorbed]
        sizes[keep] += sizes[absorbed]
        means[keep] = sums[keep] / sizes[keep, None].astype(np.float32)
        target = np.arange(len(sums))
        target[absorbed] = keep
        owner = target[owner]
        changed = np.zeros(len(sums), bool)
        changed[keep] = True
        first, second, similarity = _contracted(target[first], target[second], similarity)
        again = changed[first] | changed[second]
        similarity[again] = dots(means, first[again], second[again])
        apart = _distinct(target[apart], len(sums))
        near = (similarity >= np.float32(cosine)) & ~_are_among(first, second, apart, len(sums))
        first, second, similarity = first[near], second[near], similarity[near]
    return owner, sums, sizes


def _reciprocal(
    first: np.ndarray, second: np.ndarray, similarity: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The edges that are the most similar one of both their nodes. Of equal edges, the first one counts.

    At least one edge is found: the first of the most similar ones.
    """
    best = np.full(count, -np.inf, np.float32)
    np.maximum.at(best, first, similarity)
    np.maximum.at(best, second, similarity)
    edges = np.flatnonzero((similarity == best[first]) & (similarity == best[second]))
    earliest = np.full(count, len(first))
    np.minimum.at(earliest, first[edges], edges)
    np.minimum.at(earliest, second[edges], edges)
    edges = edges[(earliest[first[edges]] == edges) & (earliest[second[edges]] == edges)]
    return first[edges], second[edges]


def _contracted(
    first: np.ndarray, second: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges between different nodes, first < second, each once, sorted, with the similarity of one of the
    equal ones."""
    apart = first != second
    first, second, similarity = first[apart], second[apart], similarity[apart]
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = int(high.max()) + 1 if len(high) else 1
    keys, places = np.unique(low * count + high, return_index=True)
    low, high = np.divmod(keys, count)
    return low, high, similarity[places]

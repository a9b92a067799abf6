"""Agglomerative clustering with average linkage of embeddings, by cosine. Pure functions.

The similarity of two clusters is the mean cosine of all pairs between them. The two most similar clusters are
merged, until no two are as similar as a threshold.

The mean cosine is the dot product of the clusters' mean vectors, so no matrix of distances is needed.
Clusters that are each other's most similar are merged at the same time: with average linkage this gives the
same clusters as one merge after the other (reciprocal nearest neighbours; Müllner, "Modern Hierarchical,
Agglomerative Clustering Algorithms", 2011; Sumengen et al., "Scaling Hierarchical Agglomerative Clustering to
Billion-sized Datasets", 2021).
"""

import numpy as np

from faceq.selection.embedding_pairs import dots, nearest

NEIGHBOURS = 32
"""Neighbours of a cluster that are candidates for a merge. When no candidate is left, they are searched again
among the merged clusters."""


def average_linkage(vectors: np.ndarray, cosine: float, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Divide embeddings into clusters, so that the mean cosine of each two clusters is below `cosine`.

    With at most `neighbours` + 1 embeddings, the result is that of exact average linkage.

    Args:
        vectors: (N, D) float32, L2 norm 1.
        cosine: the threshold, -1 to 1.
        neighbours: see NEIGHBOURS.

    Returns:
        (N,) int64: the cluster of each embedding, numbered by its first member.
    """
    labels = np.arange(len(vectors))
    # The clusters that may still be merged: their names, sums of vectors and sizes.
    names, sums, sizes = labels, vectors, np.ones(len(vectors), np.int64)
    while len(names) > 1:
        first, second = nearest(sums / sizes[:, None].astype(np.float32), neighbours, cosine)
        if not len(first):
            break
        # A cluster without a similar one has none later: a mean of two cosines is not above the larger one.
        open_, (first, second) = _renumbered(first, second)
        owner, sums, sizes = _merge(sums[open_], sizes[open_], first, second, cosine)
        names = names[open_]
        target = np.arange(len(labels))
        target[names] = names[owner]
        labels = target[labels]
        roots = np.flatnonzero(owner == np.arange(len(owner)))
        names, sums, sizes = names[roots], sums[roots], sizes[roots]
    return labels


def _renumbered(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of some edges, and the edges between their positions."""
    nodes, places = np.unique(np.stack([first, second]), return_inverse=True)
    return nodes, places.reshape(2, -1)


def _merge(
    sums: np.ndarray, sizes: np.ndarray, first: np.ndarray, second: np.ndarray, cosine: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge along edges until no edge joins clusters that are similar enough.

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
        near = similarity >= np.float32(cosine)
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

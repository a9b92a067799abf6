"""Pairs of similar embeddings, by comparing all: exact, in blocks of bounded memory."""

from collections.abc import Iterator

import numpy as np

_ROWS, _COLUMNS = 1024, 8192
"""Size of a block of similarities: 32 MB."""

_SLACK = 1e-4
"""BLAS rounds differently with another number of threads. A pair that is near enough within this margin is
computed again in one way."""


def near_embeddings(vectors: np.ndarray, cosine: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of embeddings whose cosine is at least `cosine`, each once.

    Takes time for N^2 / 2 comparisons, and memory for a block of them.

    Args:
        vectors: (N, D) float32, L2 norm 1.
        cosine: -1 to 1.

    Yields:
        Positions of both embeddings of some pairs, (P,) int64 each, first < second.
    """
    for first, second, similarity in _above(vectors, cosine - _SLACK):
        keep = (similarity >= cosine + _SLACK) & (first < second)
        unsure = np.flatnonzero((similarity < cosine + _SLACK) & (first < second))
        keep[unsure] = dots(vectors, first[unsure], second[unsure]) >= np.float32(cosine)
        yield first[keep], second[keep]


def nearest(vectors: np.ndarray, most: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs in which one vector is among the `most` nearest of the other, if their dot product is at
    least `floor`.

    Args:
        vectors: (N, D) float32, of any length.
        most: number of neighbours of each vector.
        floor: the lowest dot product.

    Returns:
        Positions of both vectors, (P,) int64 each, first < second, each pair once, sorted.
    """
    found = []
    own: list[tuple[np.ndarray, ...]] = []
    start = 0
    for first, second, similarity in _above(vectors, floor - _SLACK, most):
        if len(first) and first[0] // _ROWS != start:
            found.append(_best(own, most))
            start, own = first[0] // _ROWS, []
        own = [*own, (first, second, similarity)]
        if sum(len(part[0]) for part in own) > 4 * _ROWS * most:
            own = [_best(own, most)]
    found.append(_best(own, most))
    one, other = (np.concatenate([part[side] for part in found]) for side in (0, 1))
    count = max(1, len(vectors))
    first, second = np.divmod(np.unique(np.minimum(one, other) * count + np.maximum(one, other)), count)
    keep = dots(vectors, first, second) >= np.float32(floor)
    return first[keep], second[keep]


def _best(parts: list[tuple[np.ndarray, ...]], most: int) -> tuple[np.ndarray, ...]:
    """The `most` pairs of highest similarity of each first vector."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    first, second, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, -similarity, first))
    first = first[order]
    starts = np.flatnonzero(np.append(True, first[1:] != first[:-1])) if len(first) else first
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first))))
    kept = order[rank < most]
    return first[rank < most], second[kept], similarity[kept]


def _above(
    vectors: np.ndarray, floor: float, most: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs of different vectors whose dot product is at least `floor`, block by block; the blocks of the
    same first vectors follow each other.

    most: if given, each pair comes in both directions, and of a block with many pairs only those with the
    `most` nearest second vectors of each first one: in a video, each frame is near to all others. Otherwise,
    blocks without a pair first < second are left out.
    """
    count = len(vectors)
    for top in range(0, count, _ROWS):
        mine = vectors[top : top + _ROWS]
        for left in range(0 if most else top // _COLUMNS * _COLUMNS, count, _COLUMNS):
            block = mine @ vectors[left : left + _COLUMNS].T
            near = block >= floor
            if most and most + 1 < block.shape[1] and np.count_nonzero(near) > 4 * most * len(block):
                second = np.argpartition(block, -most - 1, axis=1)[:, -most - 1 :].ravel()
                first = np.repeat(np.arange(len(block)), most + 1)
                enough = near[first, second]
                first, second = first[enough], second[enough]
            else:
                first, second = np.divmod(np.flatnonzero(near), block.shape[1])
            similarity = block[first, second]
            first, second = first + top, second + left
            apart = first != second
            yield first[apart], second[apart], similarity[apart]


def dots(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float32, the dot products of pairs of vectors, computed in the same way for every pair."""
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), 1 << 15):  # limits the copies of vectors
        some = slice(start, start + (1 << 15))
        found[some] = np.einsum("pe,pe->p", vectors[first[some]], vectors[second[some]])
    return found

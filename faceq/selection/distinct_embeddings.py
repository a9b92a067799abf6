"""Which embeddings are too near each other to be chosen together: have a high cosine.

It answers the questions of a greedy choice (`greedy.Near`), and reads only the embeddings of compared frames.
All pairs of a table are found by `embedding_pairs`.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.query.rows import Rows
from faceq.selection.embeddings import check_one_length, norms_of
from faceq.table.schema import EMBEDDING

IN_MEMORY = 1 << 30
"""Bytes of embeddings above which they are kept in a temporary file."""

_VALUES_AT_ONCE = 1 << 23
_ROWS_AT_ONCE = 1 << 14

_ROUNDING = 1e-4
"""A cosine in single precision that is this close to the limit is computed again in double precision, in a
fixed order: so the choice does not depend on the number of threads, nor on which frames are compared at
once."""


class Embeddings:
    """Pairs of embeddings whose cosine is greater than `limit`.

    vectors: (M, D) float32, with an L2 norm of 1. slots: (N,) int64, where the embedding of each frame is in
    `vectors`; positions in it name the frames.
    """

    def __init__(self, vectors: np.ndarray, slots: np.ndarray, limit: float):
        self._vectors = vectors
        self._slots = slots
        self._limit = limit

    def pairs(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N, M) bool: which of `some` (N,) and of `others` (M,) are near each other."""
        first, second = self._slots[some], self._slots[others]
        cosines = self._vectors[first] @ self._vectors[second].T
        near = cosines > self._limit
        row, column = np.nonzero(np.abs(cosines - self._limit) < _ROUNDING)
        near[row, column] = self._exactly(first[row], second[column])
        return near

    def each(self, one: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(G, S) bool: in each row, which of `others` (G, S) are near `one` (G,) of the row."""
        near = np.empty(others.shape, bool)
        step = max(1, _VALUES_AT_ONCE // max(1, others.shape[1] * self._vectors.shape[1]))
        for start in range(0, len(one), step):
            part = slice(start, start + step)
            first, second = self._slots[one[part]], self._slots[others[part]]
            cosines = np.einsum("gd,gsd->gs", self._vectors[first], self._vectors[second])
            near[part] = cosines > self._limit
            row, column = np.nonzero(np.abs(cosines - self._limit) < _ROUNDING)
            near[row + start, column] = self._exactly(first[row], second[row, column])
        return near

    def any(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N,) bool: which of `some` (N,) are near at least one of `others` (M,)."""
        near = np.zeros(len(some), bool)
        step = max(1, _VALUES_AT_ONCE // max(256, self._vectors.shape[1]))
        for first in range(0, len(others), step):
            left = np.flatnonzero(~near)
            known = others[first : first + step]
            rows = max(1, _VALUES_AT_ONCE // max(len(known), self._vectors.shape[1]))
            for part in np.array_split(left, -(-len(left) // rows) or 1):
                near[part] = self.pairs(some[part], known).any(1)
        return near

    def _exactly(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(N,) bool: which pairs of vectors, given by their slots, have a cosine greater than the limit."""
        found = np.empty(len(first), bool)
        for start in range(0, len(first), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            products = self._vectors[first[part]].astype(np.float64) * self._vectors[second[part]]
            found[part] = products.sum(1) > self._limit
        return found


def read(rows: Rows, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the embeddings of frames or faces, in one pass over the table.

    Args:
        rows: a table with embeddings.
        ids: (N,) int64, different from each other.

    Returns:
        (M, D) float32, the embeddings in the order in which they are read, and (N,) int64, the place of each
        frame's embedding; -1 if it has none, or one that is zero or not finite.

    Raises:
        UsageError: they have different lengths.
    """
    known = rows.name_of(pa.table({rows.key: ids, "_slot": np.arange(len(ids))}))
    statement = (
        f"SELECT _slot, {EMBEDDING.name} FROM {rows.view} JOIN {known} USING ({rows.key}) "
        f"WHERE {EMBEDDING.name} IS NOT NULL"
    )
    slots = np.full(len(ids), -1, np.int64)
    vectors = np.empty((0, 1), np.float32)
    done = 0
    for frames, values in _parts(rows, statement):
        if not done:
            vectors = _room(len(ids), values.shape[1])
        vectors[done : done + len(frames)] = values
        slots[frames] = np.arange(done, done + len(frames))
        done += len(frames)
    return vectors, slots


def _parts(rows: Rows, statement: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    lengths: Counter[int] = Counter()
    for part in rows.batches(rows.sql(statement), _ROWS_AT_ONCE):
        counts = pc.value_counts(pc.list_value_length(part[EMBEDDING.name])).to_pylist()
        lengths.update({each["values"]: each["counts"] for each in counts})
        check_one_length(rows, lengths, "select")
        values = part[EMBEDDING.name].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
        usable = norms_of(values) > 0
        yield part["_slot"].to_numpy()[usable], values[usable]


def _room(count: int, length: int) -> np.ndarray:
    """An array for vectors; in a temporary file without a name if it is large."""
    if count * length * 4 <= IN_MEMORY:
        return np.empty((count, length), np.float32)
    file = tempfile.TemporaryFile(prefix="faceq-select-")  # noqa: SIM115 - it lives as long as the array
    return np.memmap(file, np.float32, "w+", shape=(count, length))

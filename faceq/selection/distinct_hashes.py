"""Which hashes are too near each other to be chosen together: differ in few bits.

It answers the questions of a greedy choice (`greedy.Near`). All pairs of a table are found by `hash_pairs`.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

BITS = 64

_PAIRS_AT_ONCE = 1 << 22
_PROBE, _COMPARE = 4.0, 8.0
"""Time to look up a key in an index, and to compare with a hash found there, as multiples of the time of one
comparison without an index. Measured; they only decide which way is taken."""

_WIDEST = 22
"""Maximum number of bits of a key of an index: it has a table with all keys."""


class Hashes:
    """Pairs of 64-bit hashes that differ in fewer bits than `limit`.

    hashes: (N,) uint64. Positions in it name the hashes.
    """

    def __init__(self, hashes: np.ndarray, limit: int):
        self._hashes = hashes
        self._limit = limit

    def pairs(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N, M) bool: which of `some` (N,) and of `others` (M,) are near each other."""
        return self._near(self._hashes[some][:, None], self._hashes[others])

    def each(self, one: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(G, S) bool: in each row, which of `others` (G, S) are near `one` (G,) of the row."""
        return self._near(self._hashes[one][:, None], self._hashes[others])

    def any(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N,) bool: which of `some` (N,) are near at least one of `others` (M,)."""
        queries, known = self._hashes[some], self._hashes[others]
        plan, cost = _plan(self._limit - 1, len(known))
        build = 50.0 * len(known)
        if plan is None or len(some) * len(others) <= build + len(some) * cost:
            return self._any_directly(queries, known)
        return _any_by_index(queries, known, self._limit - 1, *plan)

    def _near(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.bitwise_count(some ^ others) < self._limit

    def _any_directly(self, queries: np.ndarray, known: np.ndarray) -> np.ndarray:
        found = np.zeros(len(queries), bool)
        step = max(1, _PAIRS_AT_ONCE // max(1, len(known)))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            found[part] = self._near(queries[part][:, None], known).any(1)
        return found


def _plan(radius: int, known: int) -> tuple[tuple[int, int] | None, float]:
    """How an index finds hashes within `radius` bits: into how many parts it divides a hash, and in how many
    bits a part may differ; and the time per query as a multiple of a comparison without it.

    If two hashes differ in at most `radius` bits, they differ in at most `radius // parts` bits in one of the
    parts: multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012).
    """
    best, least = None, math.inf
    for parts in range(3, radius + 2 if radius > 2 else 5):
        width = -(-BITS // parts)
        if width > _WIDEST:
            continue
        within = radius // parts
        probes = sum(math.comb(width, bits) for bits in range(within + 1))
        cost = parts * probes * (_PROBE + _COMPARE * known / 2**width)
        if cost < least:
            best, least = (parts, within), cost
    return best, least


def _any_by_index(queries: np.ndarray, known: np.ndarray, radius: int, parts: int, within: int) -> np.ndarray:
    """Which of the queries (N,) are within `radius` bits of at least one of the known hashes (M,)."""
    found = np.zeros(len(queries), bool)
    indexes = [_Index(known, shift, width) for shift, width in _spans(parts)]
    for bits in range(within + 1):  # most of what is near is found with the first few keys
        for index in indexes:
            for flip in index.flips(bits):
                left = np.flatnonzero(~found)
                for part in np.array_split(left, -(-len(left) // (1 << 16)) or 1):
                    found[part] = index.near(queries[part], flip, radius)
    return found


def _spans(parts: int) -> Iterator[tuple[int, int]]:
    """The first bit and the number of bits of each part of a hash."""
    edges = [BITS * number // parts for number in range(parts + 1)]
    return ((low, high - low) for low, high in itertools.pairwise(edges))


class _Index:
    """Hashes by some of their bits."""

    def __init__(self, known: np.ndarray, shift: int, width: int):
        self._shift, self._width = np.uint64(shift), width
        keys = self._keys(known)
        self._hashes = known[np.argsort(keys, kind="stable")]
        self._ends = np.zeros(2**width + 1, np.int64)
        np.cumsum(np.bincount(keys, minlength=2**width), out=self._ends[1:])

    def _keys(self, hashes: np.ndarray) -> np.ndarray:
        return ((hashes >> self._shift) & np.uint64(2**self._width - 1)).astype(np.int64)

    def flips(self, bits: int) -> Iterator[int]:
        """All numbers with so many ones among the bits of a key."""
        return _with_ones(self._width, bits)

    def near(self, queries: np.ndarray, flip: int, radius: int) -> np.ndarray:
        """(N,) bool: which of the queries (N,) are within `radius` bits of a hash that has the same key, but
        for the bits in `flip`."""
        keys = self._keys(queries) ^ flip
        starts = self._ends[keys]
        counts = self._ends[keys + 1] - starts
        found = np.zeros(len(queries), bool)
        ends = np.cumsum(counts)
        first = 0
        while first < len(queries):
            begun = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begun + _PAIRS_AT_ONCE, "right")))
            some = counts[first:last]
            if ends[last - 1] > begun:
                query = np.repeat(np.arange(first, last), some)
                shift = starts[first:last] - (ends[first:last] - some) + begun
                place = np.arange(len(query)) + np.repeat(shift, some)
                close = np.bitwise_count(queries[query] ^ self._hashes[place]) <= radius
                found[query[close]] = True
            first = last
        return found


def _with_ones(width: int, ones: int) -> Iterator[int]:
    """All numbers with so many ones among the `width` lowest bits, and no others."""
    if ones == 0:
        yield 0
        return
    for top in range(ones - 1, width):
        for low in _with_ones(top, ones - 1):
            yield low | 1 << top

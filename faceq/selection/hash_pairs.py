"""Pairs of 64-bit hashes that differ in few bits: exact, without comparing all pairs.

Multi-index hashing: the 64 bits are divided into m pieces. If two hashes differ in at most r bits, at least
m - r pieces are equal. For every choice of m - r pieces, the hashes are sorted by these pieces, and only
those that agree in all of them are compared. Every pair is found, whatever m is; m only decides the time, so
it is chosen by a sample.

Source: Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012; the
choice of several pieces at once: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW
2007.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from faceq.runtime.device import usable_cpus
from faceq.runtime.parallel import in_threads

MOST_BITS = 16
"""Largest distance that can be searched. Hashes of different faces differ by 26 bits in the median."""

_WIDTH = 64

_MOST_PIECES = 12

_SAMPLE = 50_000
"""Hashes from which the number of comparisons is estimated."""

_SORTING = 60
"""Time to sort a hash once, in comparisons of two hashes."""

_AT_ONCE = 1 << 17
"""Hashes that a thread compares with their successors: their arrays fit into the cache."""


def near_hashes(hashes: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of different hashes that differ in at most `bits` bits, each once.

    Takes memory for three copies of the hashes, and for the pairs that are yielded together.

    Args:
        hashes: (N,) uint64, sorted, each once.
        bits: 0 to MOST_BITS.

    Yields:
        Positions of the one and of the other hash of some pairs, (P,) int64 each. The order is the same for
        every number of threads.
    """
    if not bits or len(hashes) < 2:
        return
    spread = _permuted(hashes, _SPREAD)
    for table in _cheapest(spread, bits).tables():
        keyed = np.sort(table.arranged(spread))
        for one, other in in_threads(
            lambda start, keyed=keyed, table=table: table.near(keyed, start, bits),  # type: ignore[misc]
            range(0, len(keyed), _AT_ONCE),
            usable_cpus(),
        ):
            if not len(one):
                continue
            pair = [_permuted(table.restored(side), _GATHER) for side in (one, other)]
            yield np.searchsorted(hashes, pair[0]), np.searchsorted(hashes, pair[1])


@dataclass(frozen=True)
class _Table:
    """Hashes sorted by some of their pieces.

    ends: the ends of the pieces, in bits from the top, beginning with 0. order: the pieces, those of the key
    first. key: number of bits of the key. number: of this choice among all. first: (2^m,) the first choice
    that is within a set of equal pieces, by its bit mask.
    """

    ends: tuple[int, ...]
    order: tuple[int, ...]
    key: int
    number: int
    first: np.ndarray

    def arranged(self, hashes: np.ndarray) -> np.ndarray:
        """The hashes with their pieces in `order`. Distances stay the same."""
        found = np.zeros_like(hashes)
        for piece, place in zip(self.order, self._places(), strict=True):
            found |= self._piece(hashes, self.ends[piece], self.ends[piece + 1], place)
        return found

    def restored(self, arranged: np.ndarray) -> np.ndarray:
        """The opposite of `arranged`."""
        found = np.zeros_like(arranged)
        for piece, place in zip(self.order, self._places(), strict=True):
            width = self.ends[piece + 1] - self.ends[piece]
            found |= self._piece(arranged, place, place + width, self.ends[piece])
        return found

    def near(self, keyed: np.ndarray, start: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """The near pairs whose first hash is one of the _AT_ONCE from `start` on, and that no earlier table
        finds.

        keyed: all hashes, arranged and sorted.
        """
        own = keyed[start : start + _AT_ONCE]
        shift = np.uint64(_WIDTH - self.key)
        # The last hash of each run of equal keys; all keys are equal if there is no bit in the key.
        last = (own >> shift << shift) | np.uint64((1 << int(shift)) - 1) if self.key else None
        after = np.arange(start, start + len(own))
        ends = len(keyed) if last is None else np.searchsorted(keyed, last, side="right")
        left = np.asarray(ends - after - 1)
        ones, others = [], []
        active = np.flatnonzero(left > 0)
        for offset in itertools.count(1):
            if not len(active):
                break
            one, other = own[active], keyed[active + (start + offset)]
            hit = np.flatnonzero(np.bitwise_count(one ^ other) <= bits)
            if len(hit):
                new = self._is_first(one[hit] ^ other[hit])
                ones.append(one[hit][new])
                others.append(other[hit][new])
            active = active[left[active] > offset]
        if not ones:
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        return np.concatenate(ones), np.concatenate(others)

    def _is_first(self, difference: np.ndarray) -> np.ndarray:
        """Whether no earlier table finds pairs with these differences (P,) uint64, arranged."""
        equal = np.zeros(len(difference), np.int64)
        for piece, place in zip(self.order, self._places(), strict=True):
            width = self.ends[piece + 1] - self.ends[piece]
            equal |= (self._piece(difference, place, place + width, _WIDTH - width) == 0) << piece
        return self.first[equal] == self.number

    def _places(self) -> list[int]:
        widths = [self.ends[piece + 1] - self.ends[piece] for piece in self.order]
        return list(itertools.accumulate(widths[:-1], initial=0))

    @staticmethod
    def _piece(hashes: np.ndarray, begin: int, end: int, place: int) -> np.ndarray:
        """The bits from `begin` to `end`, counted from the top, moved so that they begin at `place`."""
        width = np.uint64(end - begin)
        low = (hashes >> np.uint64(_WIDTH - end)) & np.uint64((1 << int(width)) - 1)
        return low << np.uint64(_WIDTH - place - int(width))


@dataclass(frozen=True)
class _Scheme:
    """A division into pieces, of which `equal` are equal in each pair."""

    pieces: int
    equal: int

    def tables(self) -> Iterator[_Table]:
        """The tables, one for each choice of pieces."""
        ends = tuple(round(_WIDTH * piece / self.pieces) for piece in range(self.pieces + 1))
        choices = list(itertools.combinations(range(self.pieces), self.equal))
        masks = [sum(1 << piece for piece in choice) for choice in choices]
        found = np.full(1 << self.pieces, len(choices))
        sets = np.arange(len(found))
        for number in reversed(range(len(choices))):
            found[sets & masks[number] == masks[number]] = number
        for number, choice in enumerate(choices):
            rest = tuple(piece for piece in range(self.pieces) if piece not in choice)
            width = sum(ends[piece + 1] - ends[piece] for piece in choice)
            yield _Table(ends, (*choice, *rest), width, number, found)

    def cost(self, sample: np.ndarray, count: int) -> float:
        """The time for `count` hashes like a sample, in comparisons of two hashes."""
        compared = 0.0
        number = 0
        for table in itertools.islice(self.tables(), 24):
            keys = table.arranged(sample) >> np.uint64(_WIDTH - table.key)
            _, sizes = np.unique(keys, return_counts=True)
            compared += float((sizes * (sizes - 1.0)).sum() / 2)
            number += 1
        tables = math.comb(self.pieces, self.equal)
        scale = (count / len(sample)) ** 2
        return tables * (_SORTING * count + compared / number * scale)


def _cheapest(hashes: np.ndarray, bits: int) -> _Scheme:
    """The division that takes the least time. For few hashes, it compares all pairs."""
    best, least = _Scheme(1, 0), len(hashes) ** 2 / 2
    sample = hashes[:: max(1, len(hashes) // _SAMPLE)]
    for pieces in range(bits + 1, max(_MOST_PIECES, bits + 2) + 1):
        scheme = _Scheme(pieces, pieces - bits)
        if math.comb(pieces, bits) * _SORTING * len(hashes) < least:
            cost = scheme.cost(sample, len(hashes))
            if cost < least:
                best, least = scheme, cost
    return best


def _permuted(hashes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The hashes with their bits in another order. table: (8, 256) uint64, where the bits of each byte go."""
    found = np.zeros_like(hashes)
    for byte in range(8):
        found |= table[byte][(hashes >> np.uint64(8 * byte)).astype(np.uint8)]
    return found


def _byte_table(target: np.ndarray) -> np.ndarray:
    """The table for `_permuted` that moves bit i to bit `target[i]`; (64,) int."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    moved = [
        (bits.astype(np.uint64) << target[8 * byte : 8 * byte + 8].astype(np.uint64)) for byte in range(8)
    ]
    return np.stack([np.bitwise_or.reduce(part, axis=1) for part in moved])


_ORDER = np.random.default_rng(0).permutation(_WIDTH)
_SPREAD = _byte_table(_ORDER)
"""Mixes the bits. Neighbouring bits of a difference hash come from neighbouring cells of the face and are
often equal in all faces, so a piece of neighbouring bits separates the hashes badly."""

_GATHER = _byte_table(np.argsort(_ORDER))
"""The opposite of _SPREAD."""

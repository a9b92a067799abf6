"""Pairs of near hashes: all of them and no others, for every way of searching."""

import numpy as np
import pytest

from faceq.selection import hash_pairs
from faceq.selection.hash_pairs import near_hashes


def clustered(count: int, centres: int, seed: int) -> np.ndarray:
    """Different hashes, sorted, each at most six bits from one of the centres."""
    generator = np.random.default_rng(seed)
    found = generator.integers(0, 2**64, centres, np.uint64)[generator.integers(0, centres, count)]
    flips = generator.integers(0, 7, count)
    for flip in range(6):
        bit = np.uint64(1) << generator.integers(0, 64, count).astype(np.uint64)
        found = np.where(flips > flip, found ^ bit, found)
    return np.unique(found)


def pairs(hashes: np.ndarray, bits: int) -> list[tuple[int, int]]:
    parts = near_hashes(hashes, bits)
    found = [(min(pair), max(pair)) for part in parts for pair in zip(*part, strict=True)]
    assert len(set(found)) == len(found)  # each pair once
    return sorted(found)


def all_pairs(hashes: np.ndarray, bits: int) -> list[tuple[int, int]]:
    distance = np.bitwise_count(hashes[:, None] ^ hashes)
    return list(zip(*np.nonzero(np.triu(distance <= bits, 1)), strict=True))


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("equal", [0, 1, 2, 3])
def test_every_way_of_dividing_the_bits_finds_all_pairs(monkeypatch, bits, equal):
    pieces = bits + equal
    if pieces > 12 and equal:
        pytest.skip("the number of tables explodes: never chosen")
    scheme = hash_pairs._Scheme(max(1, pieces), equal)
    monkeypatch.setattr(hash_pairs, "_cheapest", lambda hashes, bits: scheme)
    hashes = clustered(600, 30, bits)
    assert pairs(hashes, bits) == all_pairs(hashes, bits) != []


@pytest.mark.parametrize(("count", "centres"), [(0, 1), (1, 1), (2, 1), (4000, 40), (4000, 4000)])
def test_the_chosen_way_finds_all_pairs(count, centres):
    hashes = clustered(count, centres, 1)
    for bits in (0, 2, 4):
        assert pairs(hashes, bits) == all_pairs(hashes, bits)


def test_many_hashes_are_not_compared_with_each_other(monkeypatch):
    """The division is chosen by the number of hashes; without one, this would take half a billion
    comparisons."""
    hashes = clustered(30_000, 1500, 2)
    assert hash_pairs._cheapest(hashes, 2).equal > 0
    few = pairs(hashes, 2)
    monkeypatch.setattr(hash_pairs, "_AT_ONCE", 1000)  # runs of equal keys cross the parts
    monkeypatch.setattr(hash_pairs, "usable_cpus", lambda: 1)
    assert pairs(hashes, 2) == few


def test_hashes_that_share_most_bits_are_separated():
    """All hashes of a shot: they differ in their last bits only."""
    hashes = np.unique(np.random.default_rng(0).integers(0, 1 << 14, 3000).astype(np.uint64))
    assert pairs(hashes, 2) == all_pairs(hashes, 2)

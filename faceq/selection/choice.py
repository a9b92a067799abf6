"""Which of its candidates a selection chooses."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from faceq.query.rows import Rows
from faceq.selection import distinct_embeddings
from faceq.selection.candidates import Candidates, mixed
from faceq.selection.distinct_hashes import Hashes
from faceq.selection.greedy import Near, places, ranks
from faceq.selection.select_options import Options, bin_names

_FIRST = 4
"""Number of frames whose embeddings are read at first, as a multiple of the number that may be chosen."""


@dataclass(frozen=True)
class Choice:
    """The chosen frames or faces, and what was left out.

    frames: frame_id or face_id (int64), rank (int32) and bin (string) of each chosen frame or face. groups:
    number of groups with candidates. short: of these, those with fewer than `--top` chosen frames before
    `--total` is applied. similar: number of candidates left out as too similar to a chosen one. beyond:
    number of those left out because there are enough better ones; with `--distinct`, some of them may be too
    similar, too. without: number of frames left out before, because they have no value, by the name of the
    value.
    """

    frames: pa.Table
    groups: int
    short: int
    similar: int
    beyond: int
    without: dict[str, int]

    @property
    def candidates(self) -> int:
        return len(self.frames) + self.similar + self.beyond


def choose(rows: Rows, found: Candidates, wanted: Options) -> Choice:
    """Choose frames.

    Args:
        rows: the table; embeddings are read from it.
        found: the candidates.
        wanted: the options of the selection.
    """
    limit = wanted.top
    if limit is None and wanted.total is not None:
        # No group usually needs more than its share. If it does, the first ones stay the same.
        limit = 2 * -(-wanted.total // max(1, len(found.sizes)))
    while True:
        now, given = _ranked(rows, found, wanted, limit)
        enough = wanted.total is None or np.count_nonzero(given) >= wanted.total
        if enough or limit == wanted.top or limit is None or limit >= found.sizes.max(initial=0):
            break
        limit *= 4
    kept = np.flatnonzero(given)
    if wanted.total is not None:
        order = np.lexsort((mixed(now.ids[kept], wanted.seed), -now.scores[kept], given[kept]))
        kept = np.sort(kept[order[: wanted.total]])
    counts, kept_counts = (_per_group(now, frames) for frames in (np.flatnonzero(given), kept))
    similar = _similar(now, kept, (kept_counts == counts) & (counts < (limit or np.inf)))
    names = pa.array(bin_names(wanted.balance) if wanted.balance else [], pa.string())
    numbers = pa.nulls(len(kept), pa.int32()) if now.bins is None else pa.array(now.bins[kept])
    columns = {
        rows.key: pa.array(now.ids[kept]),
        "rank": pa.array(given[kept]),
        "bin": names.take(numbers),
    }
    return Choice(
        pa.table(columns),
        len(now.sizes),
        int((counts < wanted.top).sum()) if wanted.top is not None else 0,
        similar,
        len(now.ids) - len(kept) - similar,
        now.without,
    )


def _ranked(
    rows: Rows, found: Candidates, wanted: Options, limit: int | None
) -> tuple[Candidates, np.ndarray]:
    """The candidates, without those whose embedding turned out to be missing, and their ranks."""
    if wanted.distinct is not None and wanted.distinct.by == "embedding":
        return _by_embedding(rows, found, wanted.distinct.limit, limit)
    near: Near | None = None
    if wanted.distinct is not None:
        assert found.hashes is not None
        near = Hashes(found.hashes, int(wanted.distinct.limit))
    return found, ranks(found.starts, found.bins, near, limit)


def _by_embedding(
    rows: Rows, found: Candidates, cosine: float, limit: int | None
) -> tuple[Candidates, np.ndarray]:
    """Read the embeddings of the best candidates of each group and bin, and those of more if they are not
    enough."""
    given = np.zeros(len(found.ids), np.int32)
    missing = np.zeros(len(found.ids), bool)
    place = places(found.starts, found.bins)
    group = np.repeat(np.arange(len(found.sizes), dtype=np.int32), found.sizes)
    open_groups = np.ones(len(found.sizes), bool)
    longest = int(place.max(initial=0)) + 1
    length = longest if limit is None else _FIRST * limit
    while open_groups.any():
        frames = np.flatnonzero(open_groups[group] & (place < length))
        vectors, slots = distinct_embeddings.read(rows, found.ids[frames])
        missing[frames[slots < 0]] = True
        frames, slots = frames[slots >= 0], slots[slots >= 0]
        near = distinct_embeddings.Embeddings(vectors, slots, cosine)
        starts = np.searchsorted(group[frames], np.arange(len(found.sizes) + 1))
        bins = None if found.bins is None else found.bins[frames]
        given[frames] = ranks(starts, bins, near, limit)
        if length >= longest or limit is None:
            break
        open_groups &= np.bincount(group[place >= length], minlength=len(open_groups)) > 0
        enough = np.bincount(group[given > 0], minlength=len(open_groups)) >= limit
        if found.bins is None or bins is None:
            open_groups &= ~enough
        else:
            for number in np.flatnonzero(open_groups & enough):
                whole = slice(found.starts[number], found.starts[number + 1])
                unread = np.unique(found.bins[whole][place[whole] >= length])
                part = np.arange(starts[number], starts[number + 1])
                open_groups[number] = _runs_out(part, given[frames], bins, unread, near)
        length *= _FIRST
    without = {**found.without, "embedding": int(missing.sum())}
    starts = np.searchsorted(group[~missing], np.arange(len(found.sizes) + 1))
    starts = np.unique(starts)  # no group without candidates
    parts = (found.ids[~missing], found.scores[~missing], starts)
    left = Candidates(*parts, None if found.bins is None else found.bins[~missing], None, without)
    return left, given[~missing]


def _runs_out(
    frames: np.ndarray, given: np.ndarray, bins: np.ndarray, unread: np.ndarray, near: Near
) -> bool:
    """Whether another frame might have been chosen if more frames of the bins `unread` had been compared: no
    compared frame of such a bin is left that could have been chosen."""
    chosen = frames[given[frames] > 0]
    left = frames[(given[frames] == 0) & np.isin(bins[frames], unread)]
    return len(np.unique(bins[left[~near.any(left, chosen)]])) < len(unread)


def _per_group(found: Candidates, frames: np.ndarray) -> np.ndarray:
    """(G,) int64, how many of some frames (N,) are in each group."""
    group = np.searchsorted(found.starts, frames, "right") - 1
    return np.bincount(group, minlength=len(found.sizes))


def _similar(found: Candidates, chosen: np.ndarray, exhausted: np.ndarray) -> int:
    """How many candidates are too similar to a chosen one: all that are left over in a group where nothing
    else could be chosen, and those that come before the last chosen one of their group and bin.

    Args:
        found: the candidates.
        chosen: (K,), the chosen frames.
        exhausted: (G,) bool: in which groups nothing else could be chosen.
    """
    of_exhausted = int(found.sizes[exhausted].sum())
    group = np.searchsorted(found.starts, chosen, "right") - 1
    others = chosen[~exhausted[group]]
    place = places(found.starts, found.bins)[others]
    key = group[~exhausted[group]]
    if found.bins is not None:
        key = key * (int(found.bins.max(initial=0)) + 1) + found.bins[others]
    _, number = np.unique(key, return_inverse=True)
    last = np.zeros(number.max(initial=-1) + 1, np.int64)
    np.maximum.at(last, number, place + 1)
    return of_exhausted + int(last.sum()) - len(chosen)

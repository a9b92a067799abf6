"""Greedy choice: the best frames of each group that differ from each other.

A group's frames are chosen one after the other: each time the best one that is distinct from all chosen ones
of its group, from the bins with the fewest chosen ones. Without bins, a frame is left out only if it is too
similar to a better chosen one, or if the group already has as many as it may have. The first K chosen ones
are those that a limit of K gives.

Three ways lead to this result: many small groups are worked on together, a large group is divided, and a
large group with bins is filled one frame after the other.
"""

from typing import Protocol

import numpy as np

SMALL = 256
"""Maximum size of a group that is worked on together with others, and of an undivided part of a large one."""

_CELLS = 1 << 21
"""Maximum number of frames of small groups that are worked on together."""

_AHEAD = 1024
"""Number of frames of each bin that are compared with the chosen ones before it is their turn."""

_WORK = 500
"""Number of comparisons per waiting frame after which all waiting frames are compared at once."""


class Near(Protocol):
    """Which frames are too similar to be chosen together. Positions (int64) name the frames."""

    def pairs(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N, M) bool: which of `some` (N,) and of `others` (M,) are too similar."""

    def each(self, one: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(G, S) bool: in each row, which of `others` (G, S) are too similar to `one` (G,) of the row."""

    def any(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N,) bool: which of `some` (N,) are too similar to at least one of `others` (M,)."""


def ranks(
    starts: np.ndarray, bins: np.ndarray | None, near: Near | None, limit: int | None = None
) -> np.ndarray:
    """The rank of each chosen frame in its group: the order in which they are chosen.

    Args:
        starts: (G + 1,), where each group begins, and N. The frames of a group are sorted, the best first.
        bins: (N,) int32, or None.
        near: which frames are too similar; None: all are distinct.
        limit: maximum number of chosen frames per group; None: no limit.

    Returns:
        (N,) int32, from 1; 0: the frame is not chosen.
    """
    if near is None:
        return _all_distinct(starts, bins, limit)
    found = np.zeros(int(starts[-1]), np.int32)
    sizes = np.diff(starts)
    limit = int(sizes.max(initial=0)) if limit is None else limit
    width = 1
    while width <= SMALL:  # groups of about the same size together
        groups = np.flatnonzero((sizes <= width) & (sizes > width // 2))
        for part in np.array_split(groups, -(-len(groups) * width // _CELLS) or 1):
            _together(found, starts[part], sizes[part], width, bins, near, limit)
        width *= 2
    for group in np.flatnonzero(sizes > SMALL):
        frames = np.arange(starts[group], starts[group + 1])
        chosen = _divided(frames, near, limit) if bins is None else _filled(frames, bins, near, limit)
        found[chosen] = np.arange(1, len(chosen) + 1)
    return found


def places(starts: np.ndarray, bins: np.ndarray | None) -> np.ndarray:
    """(N,) int32, how many frames of its group and bin come before each frame. Arguments as of `ranks`."""
    count = int(starts[-1])
    group = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    if bins is None:
        return (np.arange(count) - starts[group]).astype(np.int32)
    order = np.lexsort((bins, group))
    begins = np.r_[True, (np.diff(group[order]) != 0) | (np.diff(bins[order]) != 0)][:count]
    numbers = np.arange(count)
    found = np.empty(count, np.int32)
    found[order] = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    return found


def _all_distinct(starts: np.ndarray, bins: np.ndarray | None, limit: int | None) -> np.ndarray:
    """The ranks if no two frames are too similar."""
    found = places(starts, None) + 1
    if bins is not None:
        group = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
        found[np.lexsort((places(starts, bins), group))] = found.copy()
    if limit is not None:
        found[found > limit] = 0
    return found


def _together(
    found: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    width: int,
    bins: np.ndarray | None,
    near: Near,
    limit: int,
) -> None:
    """Choose in several groups of at most `width` frames at once, one frame of each at a time."""
    frames = np.minimum(starts[:, None] + np.arange(width), len(found) - 1)
    alive = np.arange(width) < sizes[:, None]
    counts = np.zeros((len(starts), 0 if bins is None else int(bins.max(initial=0)) + 1), np.int32)
    for rank in range(1, min(width, limit) + 1):
        left = alive.any(1)
        if not left.all():
            frames, alive, counts = frames[left], alive[left], counts[left]
        if not len(frames):
            return
        rows = np.arange(len(frames))
        if bins is None:
            best = alive.argmax(1)
        else:
            turn = counts[rows[:, None], bins[frames]] * width + np.arange(width)
            best = np.where(alive, turn, np.iinfo(np.int32).max).argmin(1)
        chosen = frames[rows, best]
        found[chosen] = rank
        if bins is not None:
            counts[rows, bins[chosen]] += 1
        alive &= ~near.each(chosen, frames)
        alive[rows, best] = False


def _divided(frames: np.ndarray, near: Near, limit: int) -> np.ndarray:
    """The chosen of a group's frames, in order, without bins. What is chosen in the first half leaves out
    what is too similar in the second one."""
    if len(frames) <= SMALL:
        chosen = np.ones(len(frames), bool)
        worse = np.tril(near.pairs(frames, frames), -1)
        for place in np.flatnonzero(worse.any(1)):
            chosen[place] = not (worse[place] & chosen).any()
        return frames[chosen][:limit]
    half = SMALL
    while 2 * half < len(frames):
        half *= 2
    first = _divided(frames[:half], near, limit)
    if len(first) == limit:
        return first
    rest = frames[half:][~near.any(frames[half:], first)]
    return np.concatenate([first, _divided(rest, near, limit - len(first))]) if len(rest) else first


def _filled(frames: np.ndarray, bins: np.ndarray, near: Near, limit: int) -> np.ndarray:
    """The chosen of a group's frames, in order, with bins. Some frames of each bin are compared with the
    chosen ones ahead, and all of them when that has cost as much."""
    of_frames = bins[frames]
    order = np.argsort(of_frames, kind="stable")
    queues = np.split(frames[order], np.flatnonzero(np.diff(of_frames[order])) + 1)
    numbers = [int(bins[queue[0]]) for queue in queues]
    counts = np.zeros(max(numbers) + 1, np.int64)
    chosen = np.empty(min(limit, len(frames)), np.int64)
    # The queues are distinct from the first `compared` of the `done` chosen frames.
    done = compared = work = 0
    ahead = np.empty(0, np.int64)
    while done < len(chosen):
        waiting = np.bincount(bins[ahead], minlength=len(counts))
        if work > _WORK * sum(map(len, queues)):
            queues = [queue[~near.any(queue, chosen[compared:done])] for queue in queues]
            compared, work = done, 0
        for place, number in enumerate(numbers):
            while not waiting[number] and len(queues[place]):
                more, queues[place] = queues[place][:_AHEAD], queues[place][_AHEAD:]
                work += len(more) * (done - compared)
                more = more[~near.any(more, chosen[compared:done])]
                ahead = np.concatenate([ahead, more])
                waiting[number] = len(more)
        if not len(ahead):
            break
        best = ahead[np.argmin(counts[bins[ahead]] * (frames[-1] + 1) + ahead)]
        chosen[done] = best
        done += 1
        counts[bins[best]] += 1
        ahead = ahead[~near.each(best[None], ahead[None])[0] & (ahead != best)]
    return chosen[:done]

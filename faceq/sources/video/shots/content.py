"""Find shots by the content of small pictures: where a cut, a fade or a dissolve separates one camera's
picture from another's.

Everything is decided on pictures of 32x18 pixels. Three rules, measured by `python -m
jobs.benchmarks.measure_shots`:

- A cut: a frame differs from the one before by three times as much as its neighbours do from theirs, as in
  PySceneDetect's adaptive detector (https://www.scenedetect.com), and the pictures on both sides differ
  lastingly. A flash of up to two frames is no cut: the picture from before returns.
- A dissolve or a fade: over 17 frames, the pictures are mixtures of the first and the last one, in proportion
  to time, and these are not alike. Moving people do not look like that; a moving camera does only if all it
  shows is blurred, and then the first and the last picture are alike.
- A flat picture between different ones: black or any other colour, as between fading out and fading in.

A slow transition is one boundary. It lies at the first frame to which one of the last two rules applies, so
that a few mixed frames precede it and the others follow.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

REACH = 8
"""Number of frames on either side of a frame that decide its mark."""

AROUND = 2
"""Number of marks on either side of a frame with which its change is compared."""

BLOCK = 8
"""Number of frames whose marks are computed together: one by one they take twice as long."""

_SAMPLED = (64, 36)
_PIXELS = 18 * 32  # of a picture
_RESAMPLING = Interpolation.FAST_BILINEAR | Interpolation.BITEXACT

_LEAST_CHANGE = 4.0  # mean difference of the values, 0..255: less is no cut
_RATIO = 3.0  # of the change at a cut to that of its neighbours
_LASTING = 0.5  # share of the change by which all pictures before a cut must differ from all after it
_SIDE = 3  # pictures on each side that are compared for that
_LEAST_MIX = 8.0  # mean difference between the ends of a slow transition
_MIX_ERROR = 0.25  # mean difference of a picture from a mixture, as a share of that
_MIX_AT = (REACH - 3, REACH, REACH + 3)  # pictures that are compared, of 2 * REACH + 1
_ALIKE = 0.7  # correlation of the luma of the ends, from which on they are alike
_FLAT = 3.0  # standard deviation of the luma of a picture without detail
_QUIET = 2 * REACH  # frames without a sign of a slow transition that end it

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Mark:
    """What the pictures around a frame show.

    change: mean difference from the frame before, 0..255; 0 for the first frame. lasts: the pictures before
    the frame differ from those after it. slow: the frame is in the middle of a fade or a dissolve, or flat.
    """

    change: float
    lasts: bool
    slow: bool


class Content:
    """Finds shots by the rules above, see `Finder`."""

    needs_index = False
    beyond = 2 * REACH

    def shrinking(self) -> Callable[[av.VideoFrame], np.ndarray]:
        return Shrinking()

    def marks(self, pictures: Iterable[np.ndarray], first: int = 0) -> Iterator[Mark]:
        known = np.empty((0, 3 * _PIXELS), np.float32)  # pictures from REACH before the next one to mark
        at = 0  # position of that one
        source = iter(pictures)
        while block := list(itertools.islice(source, BLOCK)):
            known = np.concatenate([known, _values(np.stack(block))])
            end = len(known) - REACH
            if end > at:
                yield from _marks(known, at, end)
                known, at = known[max(0, end - REACH) :], min(end, REACH)
        yield from _marks(known, at, len(known))

    def certain(self, first: int, count: int, is_cut_off: bool) -> range:
        return range(REACH if first else 0, count - REACH if is_cut_off else count)

    def begin_shots(self, marks: Iterable[Mark]) -> Iterator[bool]:
        quiet = _QUIET + 1  # frames since the last sign of a slow transition
        for before, mark, after in _windows(marks, AROUND):
            around = [other.change for other in (*before, *after) if other.change > 0]
            usual = sum(around) / len(around) if around else 0.0
            is_cut = mark.lasts and mark.change >= max(_LEAST_CHANGE, _RATIO * usual)
            begins = is_cut or (mark.slow and quiet > _QUIET)
            quiet = 0 if mark.slow else quiet + 1
            yield begins and bool(before)


def _marks(pictures: np.ndarray, start: int, end: int) -> Iterator[Mark]:
    """The marks of the pictures from `start` to `end`, of (N, values)."""
    ends = min(end, len(pictures) - REACH)  # of those that have REACH pictures on both sides
    apart = _differences(pictures[2 * REACH :], pictures[: max(0, ends - REACH)])
    flat = pictures[start:end, :_PIXELS].std(axis=1) < _FLAT
    changes = _differences(pictures[max(1, start) : end], pictures[max(1, start) - 1 : end - 1])
    changes = np.concatenate([np.zeros(1 if start == 0 < end else 0), changes])
    for at in range(start, end):
        change = float(changes[at - start])
        lasts = change >= _LEAST_CHANGE and _lasts(
            pictures[max(0, at - _SIDE) : at], pictures[at : at + _SIDE], change
        )
        is_apart = REACH <= at < ends and (flat[at - start] or apart[at - REACH] >= _LEAST_MIX)
        slow = is_apart and _is_slow(pictures[at - REACH : at + REACH + 1])
        yield Mark(change, lasts, bool(slow))


def _differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) float32: the mean difference of each row."""
    return np.abs(first - second).mean(axis=1)


def _lasts(before: np.ndarray, after: np.ndarray, change: float) -> bool:
    """Whether all pictures before a change differ from all after it, (N, values) each."""
    least = _LASTING * change
    return all(_difference(first, second) >= least for first, second in itertools.product(before, after))


def _is_slow(pictures: np.ndarray) -> bool:
    """Whether the middle one of 2 * REACH + 1 pictures is flat, or all are mixtures of the first and the last
    one, which must differ."""
    first, last = pictures[0], pictures[-1]
    apart = _difference(first, last)
    if _luma(pictures[REACH]).std() < _FLAT:
        return apart >= _LEAST_MIX or _is_fading(pictures)
    if apart < _LEAST_MIX:
        return False
    is_mixed = all(
        _difference(pictures[at], first + at / (2 * REACH) * (last - first)) < _MIX_ERROR * apart
        for at in _MIX_AT
    )
    return is_mixed and _correlation(_luma(first), _luma(last)) < _ALIKE


def _is_fading(pictures: np.ndarray) -> bool:
    """Whether detail goes and comes back gradually around the middle picture, unlike at a flash."""
    first, before, after, last = (_luma(pictures[at]).std() for at in (0, REACH - 1, REACH + 1, 2 * REACH))
    return bool(2 * before < first and 2 * after < last)


def _luma(picture: np.ndarray) -> np.ndarray:
    return picture[:_PIXELS]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; 0 if one of them is constant."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


class Shrinking:
    """Turns frames into the samples of small pictures, (54, 64) uint8: the rows of the luma, then both halves
    of the chroma.

    FFmpeg's fastest way to shrink takes few of the pixels, so four values of the luma are averaged. Averages
    of all pixels take five times as long.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # it keeps its tables from frame to frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        small = self._reformatter.reformat(frame, *_SAMPLED, "yuv420p", interpolation=_RESAMPLING, threads=1)
        return small.to_ndarray()


def _values(samples: np.ndarray) -> np.ndarray:
    """(N, 54, 64) samples to pictures, (N, 3 * 18 * 32) float32: Y, Cb and Cr, 0..255."""
    rows = samples[:, : _SAMPLED[1]].astype(np.float32)
    rows = rows[:, ::2] + rows[:, 1::2]
    luma = (rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25)
    parts = luma, samples[:, _SAMPLED[1] :]
    return np.concatenate([part.reshape(len(samples), -1) for part in parts], axis=1, dtype=np.float32)


def _windows(items: Iterable[Item], reach: int) -> Iterator[tuple[list[Item], Item, list[Item]]]:
    """Each item, with up to `reach` items before it and as many after it."""
    source = iter(items)
    before: deque[Item] = deque(maxlen=reach)
    after = deque(itertools.islice(source, reach))
    while True:
        after.extend(itertools.islice(source, 1))
        if not after:
            return
        item = after.popleft()
        yield list(before), item, list(after)
        before.append(item)

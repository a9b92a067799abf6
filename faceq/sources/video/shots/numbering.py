"""Number the shots of a video while it is read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from faceq.sources.video.picture import VideoFrame
from faceq.sources.video.shots.finder import Finder

T = TypeVar("T")


def numbered(
    frames: Iterable[VideoFrame], finder: Finder, use: Callable[[VideoFrame], T]
) -> Iterator[tuple[T, int]]:
    """Yield what `use` returns for each frame of a video, with the number of the frame's shot, from 0.

    The number is known some frames later: up to 18 for `content`, up to 75 for `transnetv2`. `use` is called
    before that, while the frame's pixels are in the cache of the CPU. What it returns is held back, not the
    frame. An error that `frames` or `use` raises is raised after all frames before it.
    """
    held: deque[T] = deque()
    faults: list[Exception] = []
    shrink = finder.shrinking()

    def pictures() -> Iterator[np.ndarray]:
        try:
            for frame in frames:
                held.append(use(frame))
                yield shrink(frame.decoded)
        except Exception as error:
            faults.append(error)

    number = 0
    for begins in finder.begin_shots(finder.marks(pictures())):
        number += begins
        yield held.popleft(), number
    if faults:
        raise faults[0]

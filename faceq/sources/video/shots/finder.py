"""What ways to find shots have in common."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import av
import numpy as np


class Finder(Protocol):
    """A way to find the shots of a video, from small pictures of all its frames, in two steps: a mark for
    each picture, which depends on the pictures around it, and shots from the marks of the whole video."""

    @property
    def needs_index(self) -> bool:
        """Whether the marks depend on the indices of the frames."""

    @property
    def beyond(self) -> int:
        """Number of pictures after a piece of a video on which the marks of the next one's first pictures
        depend."""

    def shrinking(self) -> Callable[[av.VideoFrame], np.ndarray]:
        """A function that makes the small pictures of the frames of one video, in order."""

    def marks(self, pictures: Iterable[np.ndarray], first: int = 0) -> Iterator[Any]:
        """The mark of each picture. `first`: index of the first picture in its video."""

    def certain(self, first: int, count: int, is_cut_off: bool) -> range:
        """The marks, by their position, that do not depend on pictures before or after those of a piece.

        first: index of the piece's first picture in its video. count: number of pictures. is_cut_off: the
        video continues after them.
        """

    def begin_shots(self, marks: Iterable[Any]) -> Iterator[bool]:
        """Whether a shot begins at each frame, from the marks of all frames in order. Not at the first
        one."""

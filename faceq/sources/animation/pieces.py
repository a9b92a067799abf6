"""What the parsers of all formats of animations return."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Dispose = Literal["keep", "clear", "restore"]
"""What becomes of a frame's rectangle before the next frame: nothing, it becomes transparent, or it becomes
what it was before the frame."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One frame of an animation: a still image for a rectangle of the canvas.

    still: the image as a file of its own. box: left, top, right and bottom on the canvas, in pixels. delay:
    how long it is shown, milliseconds. over: it is laid over what is below; otherwise it replaces that, also
    where it is transparent.
    """

    still: bytes
    box: tuple[int, int, int, int]
    delay: int
    dispose: Dispose
    over: bool


@dataclass(frozen=True)
class Animation:
    """width, height: of the canvas, pixels. pieces: yields the frames. It raises DamagedError after the
    last one if the file is damaged there."""

    width: int
    height: int
    pieces: Iterator[Piece]

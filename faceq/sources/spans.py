"""Pieces of a video, as read tasks get them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple


class Key(NamedTuple):
    """A coded key frame: its timestamp, in units, its size and its offset in the file."""

    pts: int
    size: int
    place: int


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a video, as it is read. Timestamps are in units of the stream.

    begin: its first coded frame. end: the timestamp at which the next piece begins; None for the last one.
    index: of its first frame. frames: number of frames. origin: timestamp of the video's first frame.
    previous: time of the frame before this piece, in seconds, with its `rounding`; None for the first piece.
    shot: number of the shot of its first frame; None if shots were not looked for. cuts: index of the first
    frame of each further shot that begins in it.
    """

    begin: Key
    end: int | None
    index: int
    frames: int
    origin: int
    previous: Fraction | None
    shot: int | None = None
    cuts: tuple[int, ...] = ()

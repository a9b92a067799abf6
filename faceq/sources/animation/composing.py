"""Compose the frames of an animation as viewers show them."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.animation import apng, gif, webp
from faceq.sources.animation.pieces import Animation, Piece
from faceq.sources.decode import image, pixels
from faceq.sources.decode.webp import is_webp
from faceq.sources.video.errors import DamagedError

_SHORTEST, _INSTEAD = 10, 100
"""Delays of up to 10 ms are shown as 100 ms: so do browsers, because many old files state no delay."""

_CANVASES, _CHANNELS = 4, 4
"""Number of images of the canvas' size that are in memory at the same time, and their bytes per pixel."""


_HEADER = "the animation is damaged or cut off in its header: copy or export it again"


@dataclass(frozen=True, slots=True)
class AnimationFrame:
    """One frame.

    index: its position, from 0. time: seconds after frame 0. rounding: maximum error of the time. canvas:
    what is shown, RGBA, until the next frame is read. orientation: as in EXIF.
    """

    index: int
    time: Fraction
    canvas: Image.Image
    orientation: int
    rounding: Fraction = Fraction(0)

    @property
    def shot(self) -> None:
        """Always None: an animation is not divided into shots."""
        return None

    @property
    def fault(self) -> str:
        """Always empty, because a damaged frame ends the animation; see VideoFrame."""
        return ""

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB in sRGB, upright, over white. Call it before the next frame is read."""
        return pixels.to_rgb(self.canvas, orientation=self.orientation)


class _Parser(NamedTuple):
    read: Callable[[bytes], Animation]
    has_several: Callable[[bytes], bool]


def is_animated(data: bytes) -> bool:
    """Whether an image file is a GIF, a WebP or a PNG of several frames."""
    parser = _parser(data)
    return parser is not None and parser.has_several(data)


def _parser(data: bytes) -> _Parser | None:
    if data.startswith(gif.MAGIC):
        return _Parser(gif.read, gif.has_several)
    if data.startswith(apng.MAGIC):
        return _Parser(apng.read, apng.has_several)
    return _Parser(webp.read, webp.has_several) if is_webp(data) else None


def read(data: bytes, memory: int) -> Iterator[AnimationFrame]:
    """Yield the frames of an animation, in order. Only one of them is in memory.

    Args:
        data: a file that `is_animated`.
        memory: maximum bytes for the images in memory.

    Raises:
        DamagedError: the file is damaged, after the frames before the damage; or the canvas is too large.
    """
    parser = _parser(data)
    assert parser is not None
    try:
        animation = parser.read(data)
    except (struct.error, IndexError):
        raise DamagedError(_HEADER) from None
    width, height = animation.width, animation.height
    most_pixels = memory // (_CANVASES * _CHANNELS)
    if width * height > most_pixels:
        raise DamagedError(
            f"{width}x{height} pixels of an animation take more memory than limits.source_memory={memory}: "
            "scale it down or raise the limit"
        )
    try:
        info, orientation = image.metadata(data)
    except UnreadableError:
        raise DamagedError(_HEADER) from None
    canvas = Image.new("RGBA", (width, height))
    canvas.info.update(info)
    yield from _frames(animation.pieces, canvas, orientation, most_pixels)


def _frames(
    pieces: Iterable[Piece], canvas: Image.Image, orientation: int, most_pixels: int
) -> Iterator[AnimationFrame]:
    passed = 0
    for index, piece in enumerate(pieces):
        before = canvas.crop(piece.box) if piece.dispose == "restore" else None
        try:
            still = image.still(piece.still, most_pixels)
        except UnreadableError as error:
            raise DamagedError(f"frame {index}: {error}: the rest is not read") from None
        _draw(canvas, still, piece)
        yield AnimationFrame(index, Fraction(passed, 1000), canvas, orientation)
        passed += piece.delay if piece.delay > _SHORTEST else _INSTEAD
        if piece.dispose == "clear":
            canvas.paste((0, 0, 0, 0), piece.box)
        elif before is not None:
            canvas.paste(before, piece.box)


def _draw(canvas: Image.Image, still: Image.Image, piece: Piece) -> None:
    left, top = piece.box[:2]
    wide, high = min(still.width, canvas.width - left), min(still.height, canvas.height - top)
    if wide > 0 and high > 0:
        part = still.crop((0, 0, wide, high))  # what is beyond the canvas is not shown
        if piece.over:
            canvas.alpha_composite(part, (left, top))
        else:
            canvas.paste(part, (left, top))

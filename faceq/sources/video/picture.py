"""One decoded frame as players show it: upright, with square pixels, and as a PNG."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

MAX_PIXELS = 178_956_970
"""A video of larger frames is refused before one is decoded: Pillow, which reads them next, opens none."""

MOST_STRETCH = 8
"""Pixel aspect ratios further from 1 than 8:1 and 1:8 are taken for damage and ignored. The most extreme
ones of real formats are below 3:1 (352x576 shown at 16:9)."""

_SQUARE = Fraction(1)

# Luma and chroma each go straight to the display size. Without exact rounding, processors differ.
_RESAMPLING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One decoded frame.

    index: its place among all frames that could be decoded, in the order in which they are shown, from 0.
    time: seconds after frame 0. rounding: by how much (seconds) the file may have rounded the time.
    damaged: the decoder found errors in it and patched them over. aspect: width of its pixels over their
    height. matrix: the video's display matrix.
    """

    index: int
    time: Fraction
    rounding: Fraction
    damaged: bool
    decoded: av.VideoFrame
    aspect: Fraction
    matrix: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in display pixels, before the frame is turned."""
        return display_size(self.decoded.width, self.decoded.height, self.aspect)

    @property
    def fault(self) -> str:
        """Why its pixels say nothing of the frame, for people; empty if they do."""
        if self.damaged:
            return "this frame of the video is damaged: the decoder patched it over"
        width, height = self.size
        return "" if width * height <= MAX_PIXELS else too_large(width, height)

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, turned and mirrored as the video asks players to do, with square pixels."""
        width, height = self.size
        if (width, height) == (self.decoded.width, self.decoded.height):
            shown = self.decoded.reformat(format="rgb24", threads=1)
        else:
            shown = self.decoded.reformat(width, height, "rgb24", interpolation=_RESAMPLING, threads=1)
        rgb = shown.to_ndarray()
        return rgb if self.matrix is None else upright(rgb, self.matrix)

    def encode(self) -> bytes:
        """The pixels as a PNG, without loss.

        Measured on a 3840x2160 frame out of an H.264 video, one core: 0.18 s and 6.2 MB, and 0.13 s to
        decode; by Pillow's encoder 0.40 s and 6.6 MB; lossless WebP 0.44 s and 4.1 MB; not compressed
        0.03 s and 24.9 MB, and find_face gathers 32 frames for a task.
        """
        pixels = np.ascontiguousarray(self.pixels())
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width = pixels.shape[:2]
        encoder.pix_fmt = "rgb24"
        encoder.time_base = Fraction(1)
        encoder.thread_count = 1
        encoder.options = {"compression_level": "1", "pred": "up"}
        # Made from bare pixels, lest the display matrix come along as an orientation of the PNG.
        return b"".join(bytes(packet) for packet in encoder.encode(av.VideoFrame.from_numpy_buffer(pixels)))


def too_large(width: int, height: int) -> str:
    """Why frames of that size are not read, for people."""
    return f"{width}x{height} pixels are more than the {MAX_PIXELS} that a frame may have"


def valid_aspect(aspect: Fraction | None) -> Fraction:
    """The aspect ratio of pixels, or 1 where none is stated or the stated one makes no sense."""
    if aspect is None:
        return _SQUARE
    wide, high = aspect.numerator, aspect.denominator
    return aspect if 0 < wide <= MOST_STRETCH * high and high <= MOST_STRETCH * wide else _SQUARE


def display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels: the shorter direction is stretched, so that no detail is lost."""
    wide, high = aspect.numerator, aspect.denominator
    if wide >= high:
        return (round(width * aspect), height) if wide > high else (width, height)
    return width, round(height / aspect)


def upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture as a display matrix shows it.

    Args:
        pixels: (H, W, 3).
        matrix: (3, 3) of fixed-point numbers; a row vector (x, y, 1) times it is where the point (x, y)
            goes. Quarter turns and mirrorings are done; other angles, which players do not know
            either, go to the nearest of them.

    Returns:
        A view of the pixels, (H, W, 3), or (W, H, 3) after a quarter turn.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64)
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]

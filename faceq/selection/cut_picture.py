"""The pictures of a clip: upright, with square pixels, as YUV 4:2:0 with 8 bits, and in the colours of the
video."""

from collections.abc import Sequence

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace

from faceq.sources.video.picture import RESAMPLING, VideoFrame, upright

_FORMAT = "yuv420p"

Planes = Sequence[np.ndarray]
"""Y (H, W), U and V (H / 2, W / 2), uint8; H and W are even."""


def whole(frame: VideoFrame) -> av.VideoFrame:
    """The frame as players show it. An odd last row or column is left out, because 4:2:0 has none."""
    plain = _plain(frame)
    if frame.matrix is None and not plain.width % 2 and not plain.height % 2:
        plain.pict_type = PictureType.NONE  # otherwise the encoder repeats the decisions of the first one
        return plain
    return _frame_of(_upright(plain, frame), plain)


def cropped(
    frame: VideoFrame, centre: tuple[float, float], side: float, size: int, shrink: int
) -> av.VideoFrame:
    """A square of the frame as players show it, scaled. Beyond the frame's edge, border pixels are repeated.

    Args:
        frame: the video frame.
        centre: x and y of the centre of the square, in pixels.
        side: of the square, in pixels.
        size: side of the result in pixels, even.
        shrink: the frame is first reduced by this factor, by averaging, so that nothing flickers if the
            square is much larger than the result.
    """
    plain = _plain(frame)
    luma, *chroma = _upright(plain, frame)
    left, top = (value - side / 2 for value in centre)
    scale = side / size
    found = [_warp(luma, (left + scale / 2 - 0.5, top + scale / 2 - 0.5), scale, size, shrink)]
    # A chroma sample is at the place of the left one of two luma samples, between an upper and a lower one.
    begin = (left + scale / 2 - 0.5) / 2, (top + scale - 0.5) / 2 - 0.25
    found += [_warp(plane, begin, scale, size // 2, shrink) for plane in chroma]
    return _frame_of(found, plain)


def shrink_factor(side: float, size: int) -> int:
    """By how much to reduce frames before a square of this side is scaled to `size`."""
    return max(1, int(side / size))


def _warp(plane: np.ndarray, begin: tuple[float, float], scale: float, size: int, shrink: int) -> np.ndarray:
    """Sample a plane at `begin` (x, y), and from there in steps of `scale`, `size` times per direction."""
    x, y = begin
    if shrink > 1:
        height, width = (max(1, length // shrink) for length in plane.shape)
        reduced = cv2.resize(
            plane[: height * shrink, : width * shrink], (width, height), interpolation=cv2.INTER_AREA
        )
        plane, scale = reduced, scale / shrink
        x, y = ((value + 0.5) / shrink - 0.5 for value in (x, y))
    way = cv2.INTER_CUBIC if scale <= 1 else cv2.INTER_LINEAR
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    return cv2.warpAffine(
        plane, matrix, (size, size), flags=way | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def _plain(frame: VideoFrame) -> av.VideoFrame:
    """The decoded frame with square pixels, in the format of the clip.

    Matrix and range stay those of the video, also if they are not stated. RGB becomes limited BT.709.
    """
    decoded = frame.decoded
    kind = decoded.format
    is_rgb = kind.is_rgb or kind.has_palette
    is_full = kind.name.startswith(("yuvj", "gray", "ya", "mono")) and decoded.color_range != ColorRange.MPEG
    if kind.name == _FORMAT and frame.size == (decoded.width, decoded.height):
        return decoded
    width, height = frame.size
    return decoded.reformat(
        width,
        height,
        _FORMAT,
        dst_colorspace=Colorspace.ITU709 if is_rgb else None,
        src_color_range=ColorRange.JPEG if is_full else None,
        dst_color_range=ColorRange.MPEG if is_rgb else ColorRange.JPEG if is_full else None,
        interpolation=RESAMPLING,
        threads=1,
    )


def _upright(plain: av.VideoFrame, frame: VideoFrame) -> Planes:
    height, width = plain.height // 2 * 2, plain.width // 2 * 2
    luma, *chroma = (_pixels(plane) for plane in plain.planes)
    planes = [luma[:height, :width], *(plane[: height // 2, : width // 2] for plane in chroma)]
    if frame.matrix is None:
        return planes
    return [upright(plane, frame.matrix) for plane in planes]


def _frame_of(planes: Planes, like: av.VideoFrame) -> av.VideoFrame:
    """A frame of planes, with the colour tags of another."""
    height, width = planes[0].shape
    made = av.VideoFrame(width, height, _FORMAT)
    for place, plane in zip(made.planes, planes, strict=True):
        _pixels(place)[:] = plane
    for name in COLOURS:
        setattr(made, name, getattr(like, name))
    return made


def _pixels(plane: VideoPlane) -> np.ndarray:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")
"""The attributes that say what the numbers of a frame mean. A clip has those of its video."""

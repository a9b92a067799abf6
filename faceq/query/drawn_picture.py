"""Draw the images of samples of an export: crop a frame to its faces, and encode them."""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from faceq.config import MOST_PIXELS
from faceq.errors import UnreadableError
from faceq.faces import face_square, ffhq, geometry
from faceq.messages.one_line import one_line
from faceq.query.export_pictures import ExportPictures
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame

CROP_COLUMNS = pa.schema([("crop_to_frame", pa.list_(pa.float64())), ("crop_inside", pa.float64())])
"""What the row of a crop has in addition. crop_to_frame: the six numbers a, b, c, d, e, f. The pixel u, v of
the crop is at x = a*u + b*v + c, y = d*u + e*v + f in the frame, where 0, 0 is the centre of the first pixel
in both. crop_inside: share of the crop's area inside the frame, 0 to 1."""

_LARGE = 30_000_000
"""Frames of more pixels are drawn one at a time, because of their memory."""

_one_large = threading.Lock()

_SAMPLING_444 = 0x111111
"""OpenCV's number for a JPEG whose colours have the full resolution."""

_LOSSLESS = 101
"""OpenCV's quality of lossless WebP."""


def draw(
    frame: Frame, rows: Sequence[dict[str, Any]], pictures: ExportPictures
) -> list[tuple[Frame, dict[str, Any]]]:
    """The frame with a new image for each of its rows: the crop in the format that `pictures` states.

    Args:
        frame: as the readers return it. It is decoded once.
        rows: its row of the table, or those of its faces.
        pictures: not with the format `keep`.

    Returns:
        For each row, the frame and the values of CROP_COLUMNS; none for a whole frame. A frame that cannot be
        decoded, cropped or encoded has an `error` in place of the image.
    """
    if frame.image is None:
        return [(frame, {})] * len(rows)
    large = (rows[0]["width"] or 0) * (rows[0]["height"] or 0) > _LARGE
    with _one_large if large else contextlib.nullcontext():
        try:
            picture = decode(frame.image, MOST_PIXELS)  # it was read before, with some `max_pixels`
        except _FAILURES as error:
            return [(_failed(frame, error), {})] * len(rows)
        return [_drawn(frame, picture, row, pictures) for row in rows]


_FAILURES = (UnreadableError, ValueError, cv2.error, MemoryError)


def _failed(frame: Frame, error: BaseException) -> Frame:
    reason = "not enough memory to crop it" if isinstance(error, MemoryError) else one_line(str(error))
    return replace(frame, image=None, error=reason)


def _drawn(
    frame: Frame, picture: np.ndarray, row: dict[str, Any], pictures: ExportPictures
) -> tuple[Frame, dict[str, Any]]:
    try:
        image, columns = _image(picture, row, pictures)
    except _FAILURES as error:
        return _failed(frame, error), {}
    return replace(frame, image=image), columns


def _image(
    picture: np.ndarray, row: dict[str, Any], pictures: ExportPictures
) -> tuple[bytes, dict[str, Any]]:
    if pictures.kind == "frame":
        return encoded(picture, pictures), {}
    height, width = picture.shape[:2]
    if (width, height) != (row["width"], row["height"]):
        raise ValueError(
            f"it has {width}x{height} pixels, and had {row['width']}x{row['height']} when it was scored: "
            "score it again"
        )
    crop, matrix = _cropped(picture, row, pictures)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corners = geometry.crop_corners(matrix, crop.shape[0])
    inside = geometry.inside_share(corners, width, height)
    return encoded(crop, pictures), {"crop_to_frame": inverse.ravel().tolist(), "crop_inside": inside}


def _cropped(
    picture: np.ndarray, row: dict[str, Any], pictures: ExportPictures
) -> tuple[np.ndarray, np.ndarray]:
    """The crop of a face (S, S, 3), and the map (2, 3) from the frame to it. Raises ValueError."""
    if pictures.kind == "face":
        box = np.array([row[f"face_{side}"] for side in "xywh"], np.float64)
        return face_square.cut(picture, box, pictures.margin)
    landmarks = _landmarks(row["landmarks"], max(picture.shape[:2]))
    if pictures.size in ffhq.SIZES:
        return ffhq.crop(picture, landmarks, pictures.size)
    return geometry.align(picture, landmarks), geometry.align_map(landmarks)


def _landmarks(values: list[float], longer: int) -> np.ndarray:
    """The five landmarks (5, 2) of a row. Raises ValueError if they are damaged: not ten numbers, all at one
    place, or farther outside the frame than its longer side."""
    points = np.array(values, np.float32)
    near = points.size == 10 and ((points > -longer) & (points < 2 * longer)).all()
    if not near or np.ptp(points.reshape(5, 2), axis=0).max() < 1:
        raise ValueError("its landmarks are not those of a face in this frame: score it again")
    return points.reshape(5, 2)


def encoded(picture: np.ndarray, pictures: ExportPictures) -> bytes:
    """Encode an image, (H, W, 3) uint8 RGB in sRGB. Raises ValueError or cv2.error if it is too large for the
    format."""
    kind, quality = pictures.encoding
    if kind == "png":
        from faceq.sources.video.picture import png  # noqa: PLC0415 - PyAV takes a while to import

        return png(picture)
    if kind == "jpeg":
        assert quality is not None
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING_444]
    else:
        options = [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS if quality is None else quality]
    done, file = cv2.imencode(f".{kind}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        height, width = picture.shape[:2]
        raise ValueError(f"{width}x{height} pixels are too many for {kind}: choose --format png")
    return file.tobytes()

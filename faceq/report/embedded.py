"""Images that are read from their sources again and embedded into the page."""

import base64
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

from faceq.sources.decode.image import UnreadableError, decode
from faceq.sources.reread import frames_of
from faceq.storage.settings import S3Settings

_JPEG_QUALITY = 75


def pictures_of(chosen: pa.Table, s3: S3Settings) -> Iterator[tuple[int, np.ndarray]]:
    """Read the frames of rows. A frame that can no longer be read is left out.

    Args:
        chosen: a table with the columns `reread.COLUMNS`, without rows for breaks.
        s3: settings of the file system.

    Yields:
        The row's number, and its frame, (H, W, 3) uint8 RGB.
    """
    for number, frame in frames_of(chosen, s3):
        if frame.image is None:
            continue
        try:
            yield number, decode(frame.image, Image.MAX_IMAGE_PIXELS or 1 << 28)
        except UnreadableError:
            continue  # the file was replaced


def data_uri(image: Image.Image) -> str:
    """The data URI of an image as a JPEG."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()

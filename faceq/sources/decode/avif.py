"""AVIF, decoded by the libavif in Pillow 11.3 and newer."""

from collections.abc import Callable

from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.decode import heif

_OLD_PILLOW = "AVIF images need Pillow 11.3 or newer, with AVIF: `pip install --upgrade pillow`"


def read(data: bytes, check_pixels: Callable[[int, int], None]) -> tuple[Image.Image, int]:
    """Decode an image, or the first one of a sequence.

    Pillow's plugin is not used: it decodes with several threads, and passes on the rotation of the file as
    EXIF data.

    Args:
        data: the file.
        check_pixels: called with width and height before the pixels are decoded.

    Returns:
        The image, and its orientation as in EXIF, 1 to 8. It comes from the file's rotation and mirroring;
        the orientation in EXIF and XMP does not count in AVIF.

    Raises:
        UnreadableError: Pillow has no decoder for AVIF, or the image is of high dynamic range.
        Exception: the file is damaged.
    """
    try:
        from PIL import _avif  # noqa: PLC0415 - older versions of Pillow lack it
    except ImportError:
        raise UnreadableError(_OLD_PILLOW) from None
    heif.check_range(data)
    decoder = _avif.AvifDecoder(data, "auto", 1)  # one thread: a task may own only part of a CPU
    size, _, mode, profile, _, orientation, _ = decoder.get_info()
    check_pixels(*size)
    picture = Image.frombuffer(mode, size, decoder.get_frame(0)[0], "raw", mode, 0, 1)
    if profile:
        picture.info["icc_profile"] = profile
    return picture, orientation

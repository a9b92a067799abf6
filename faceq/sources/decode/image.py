"""Decode image files to RGB pixels, or raise an error that says what to do."""

import contextlib
import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from faceq.config import Limits
from faceq.errors import UnreadableError
from faceq.messages.one_line import one_line
from faceq.sources.decode import avif, heif, jpeg, jpeg_2000, jpeg_xl, packed, pixels, png, tiff, webp
from faceq.sources.decode.file_types import SUPPORTED, damaged, unknown

Image.init()  # given a list of formats, `Image.open` only tries those whose plugins are already loaded

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The Pillow decoders that `Image.open` may choose. Others are rare or unsafe (the one for PostScript starts
a program). The multi-picture JPEGs of phones (MPO) open as JPEG."""

_LIMITS = Limits()

CheckPixels = Callable[[int, int], None]
"""Raises UnreadableError if an image of this width and height has too many pixels."""

Special = Callable[[bytes, CheckPixels], np.ndarray]
"""Decodes a format that Pillow does not decode, or not safely."""


def decode(data: bytes, max_pixels: int, limits: Limits = _LIMITS) -> np.ndarray:
    """Decode one image to 8-bit RGB in sRGB, upright.

    - The EXIF orientation is applied; that of HEIC, AVIF and JPEG XL comes from the file's own fields. Only
      the first frame of an animation, the first page, or the primary image is decoded.
    - Transparent areas are blended with white, as in viewers.
    - Samples of more than 8 bits are reduced to their upper eight bits, as in libpng and OpenCV: 65535
      becomes 255, and so does 4095 in a 12-bit image. A TIFF whose zero is white is inverted. Samples without
      a fixed range (signed, floating-point) are refused.
    - An embedded colour profile, or PNG's gamma, is applied (see `faceq.sources.decode.colour`).
    - Pixels are treated as square, whatever density JPEG, PNG and TIFF state, as in image viewers, browsers
      and libraries (but not in video players). A fax of 204x98 dots per inch keeps its stored size.
    - An image is read if all of its pixels are there, even if its end marker or later data are missing or
      metadata chunks are damaged. An image with missing pixels is unreadable. If the data are damaged in the
      middle and the decoder can continue, the image is read, as in viewers.

    Args:
        data: an image in one of FORMATS, AVIF, HEIC, JPEG 2000 or JPEG XL, or a video frame from
            `packed.pack`.
        max_pixels: larger images are refused before their pixels are decoded, as a protection against
            decompression bombs.
        limits: `jpeg_scans` and `source_memory` limit the work and the memory for one image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableError: empty, truncated, corrupt, too large, or not supported.
    """
    with _errors(data):
        if packed.is_packed(data):
            _check_pixels(*packed.size(data), max_pixels)
            return packed.unpack(data)
        if data.startswith(jpeg.MAGIC):
            return _jpeg(data, max_pixels, limits)
        if data.startswith(png.MAGIC):
            return _png(data, max_pixels)
        if data.startswith(tiff.MAGIC):
            return _tiff(data, max_pixels, limits)
        if webp.is_webp(data):
            return _webp(data, max_pixels)
        special = _special(data)
        check_pixels = functools.partial(_check_pixels, max_pixels=max_pixels)
        return special(data, check_pixels) if special else _plain(data, max_pixels)


def still(data: bytes, max_pixels: int) -> Image.Image:
    """Decode one frame of an animation, as a file of its own, to RGBA, without regard to colour profile and
    orientation. Raises UnreadableError."""
    with _errors(data), _opened(data, max_pixels) as picture:
        if data.startswith(png.MAGIC):
            png.load(picture, data)
        else:
            picture.load()
        return pixels.to_rgba(picture)


def metadata(data: bytes) -> tuple[dict[str, Any], int]:
    """What determines the colours of an image, in Pillow's `info`, and its orientation, 1 to 8. Raises
    UnreadableError."""
    profile = None
    if data.startswith(png.MAGIC):
        data, profile = png.needed_chunks(data)
    elif webp.is_webp(data):
        data = webp.whole_chunks(data) or data
    with _errors(data), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        found: dict[str, Any] = {
            key: picture.info[key] for key in ("icc_profile", "gamma", "srgb") if key in picture.info
        }
        if profile:
            found["icc_profile"] = profile
        return found, pixels.orientation_of(picture)


@contextlib.contextmanager
def _errors(data: bytes) -> Iterator[None]:
    """Turn the errors of decoders into UnreadableError."""
    if not data:
        raise UnreadableError("the file is empty (0 bytes)")
    try:
        yield
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError(unknown(data)) from None
    except Image.DecompressionBombError as error:
        reason = str(error).rstrip(".")
        raise UnreadableError(
            f"too many pixels to open, whatever max_pixels is ({reason}): scale the image down"
        ) from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode the image") from None
    except Exception as error:
        # On corrupt bytes Pillow's decoders raise errors of almost any type.
        raise UnreadableError(_reason(error)) from None


def format_of(data: bytes) -> str | None:
    """Pillow's name for the format of an image; None if it is not supported."""
    if special := _special(data):
        names: dict[Special, str]
        names = {_avif: "AVIF", _heic: "HEIF", _jpeg_2000: "JPEG2000", _jpeg_xl: "JXL"}
        return names[special]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.format
    except Exception:  # Pillow raises almost any type on corrupt bytes
        return None


def _special(data: bytes) -> Special | None:
    """The special decoder of an image; None if it needs none."""
    if data.startswith(jpeg_2000.MAGIC):
        return _jpeg_2000
    if data.startswith(jpeg_xl.MAGIC):
        return _jpeg_xl
    if heif.is_avif(data):
        return _avif
    return _heic if heif.is_heic(data) else None


def _opened(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_pixels(*picture.size, max_pixels)
    return picture


def _avif(data: bytes, check_pixels: CheckPixels) -> np.ndarray:
    picture, orientation = avif.read(data, check_pixels)
    return pixels.to_rgb(picture, orientation=orientation)


def _heic(data: bytes, check_pixels: CheckPixels) -> np.ndarray:
    return pixels.to_rgb(heif.read(data, check_pixels))


def _jpeg_xl(data: bytes, check_pixels: CheckPixels) -> np.ndarray:
    return pixels.to_rgb(jpeg_xl.read(data, check_pixels))


def _jpeg_2000(data: bytes, check_pixels: CheckPixels) -> np.ndarray:
    return pixels.to_rgb(jpeg_2000.read(data, check_pixels))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableError(
            f"{width}x{height} pixels are more than max_pixels={max_pixels}: "
            "scale the image down or raise max_pixels"
        )


def _plain(data: bytes, max_pixels: int) -> np.ndarray:
    with _opened(data, max_pixels) as picture:
        picture.load()
        return pixels.to_rgb(picture)


def _webp(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        return _plain(data, max_pixels)
    except OSError:
        whole = webp.whole_chunks(data)
        if whole is None:
            raise
    return _plain(whole, max_pixels)


def _jpeg(data: bytes, max_pixels: int, limits: Limits) -> np.ndarray:
    layout = jpeg.layout(data, limits.jpeg_scans)
    if layout is not None and (kind := jpeg.unsupported(layout)):
        raise UnreadableError(f"{kind} is not supported: convert it to an ordinary 8-bit JPEG or to PNG")
    if layout is not None and layout.extras > jpeg.MAX_EXTRAS:
        data = jpeg.without_extras(data, layout)
        layout = jpeg.layout(data, limits.jpeg_scans)
    with _opened(data, max_pixels) as picture:
        if layout is None:
            picture.load()
        elif not jpeg.load(picture, data, layout):
            raise UnreadableError(damaged("some of its pixels are missing"))
        return pixels.to_rgb(picture)


def _png(data: bytes, max_pixels: int) -> np.ndarray:
    png.check(data)
    if not png.has_many_chunks(data):
        try:
            return _png_pixels(data, max_pixels)
        except UnreadableError:
            raise
        except (OSError, SyntaxError, ValueError):
            pass  # a metadata chunk may be damaged, cut off, or too large for Pillow: try without metadata
    needed, profile = png.needed_chunks(data)
    return _png_pixels(needed, max_pixels, profile)


def _png_pixels(data: bytes, max_pixels: int, profile: bytes | None = None) -> np.ndarray:
    with _opened(data, max_pixels) as picture:
        png.load(picture, data)
        if profile:
            picture.info["icc_profile"] = profile
        return pixels.to_rgb(picture)


def _tiff(data: bytes, max_pixels: int, limits: Limits) -> np.ndarray:
    directory = tiff.directory(data)
    if directory is None or data[8:10] == b"CR":
        raise UnreadableError(unknown(data))
    tiff.check(directory, limits.source_memory)
    try:
        picture = _opened(data, max_pixels)
    except Image.UnidentifiedImageError:
        if not directory.is_whole:
            raise
        raise UnreadableError(tiff.unsupported(directory)) from None
    with picture:
        tiff.mend(picture, directory)
        try:
            picture.load()
        except (OSError, ValueError) as error:
            if _UNSUPPORTED.search(str(error)):
                raise UnreadableError(tiff.unsupported(directory)) from None
            if directory.is_rarely_supported:
                raise UnreadableError(f"it is damaged, or {tiff.unsupported(directory)}") from None
            raise
        return pixels.to_rgb(picture, *tiff.samples(directory))


_UNSUPPORTED = re.compile(
    r"unsupported|not (yet )?supported|raw mode|not available|cannot handle", re.IGNORECASE
)
"""Matches Pillow's messages about features that Pillow lacks, as opposed to damage in the file."""


def _reason(error: Exception) -> str:
    """The decoder's message; for an error whose message only makes sense to programmers, its type."""
    text = one_line(str(error))
    if isinstance(error, OSError | SyntaxError | ValueError) and text:
        text = re.sub(r"b'([^']*)'", r"\1", text)
        if _UNSUPPORTED.search(text):
            return f"this kind of image is not supported ({text}): convert to JPEG or PNG ({SUPPORTED})"
        return damaged(text)
    return damaged(f"its data are inconsistent, {type(error).__name__}")

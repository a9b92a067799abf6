"""Encoded image bytes to RGB pixels, or the reason why not in words a person can act on."""

import io
import re

import numpy as np
from PIL import Image, ImageFile

from faceq.config import Limits
from faceq.errors import UnreadableError
from faceq.messages.one_line import one_line
from faceq.sources.decode import jpeg, pixels, png, tiff, webp
from faceq.sources.decode.file_types import SUPPORTED, damaged, unknown

Image.init()  # with a list of formats, `Image.open` looks only at those whose plugins are loaded already

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's decoders that are let near a frame; others (PostScript, say) start programs or are rare. The
phones' multi-picture JPEG (MPO) opens as JPEG."""

_LIMITS = Limits()


def decode(data: bytes, max_pixels: int, limits: Limits = _LIMITS) -> np.ndarray:
    """Decode one image to 8-bit RGB in sRGB, upright.

    - EXIF orientation is applied. Of an animation, and of several pages, the first is taken.
    - Transparent parts are laid over white, as viewers show them.
    - Of samples of more than 8 bits the upper eight are taken, as libpng and OpenCV do: 65535, and 4095 of
      12 bits, become 255. What a TIFF calls white is white. Samples that have no fixed range (signed,
      floating-point) are refused.
    - An embedded colour profile, or PNG's gamma, is applied (see `faceq.sources.decode.colour`).
    - Pixels are taken to be square, whatever JPEG, PNG and TIFF say of their density: image viewers, browsers
      and libraries do the same (video players do not). A fax of 204x98 dots per inch stays as it is stored.
    - An image all of whose pixels are there is read, even if its end marker or what follows is not, or chunks
      beside the pixels are damaged. An image of which a part is missing is unreadable. Where the data are
      damaged in the middle, and the decoder goes on after that, the image is read, as viewers show it.

    Args:
        data: an encoded image in one of FORMATS.
        max_pixels: larger images are refused before their pixels are decoded, which guards against
            decompression bombs.
        limits: `jpeg_scans` and `source_memory` bound the work and the memory that one image may take.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableError: empty, truncated, corrupt, too large, or not supported.
    """
    if not data:
        raise UnreadableError("the file is empty (0 bytes)")
    try:
        if data.startswith(jpeg.MAGIC):
            return _jpeg(data, max_pixels, limits)
        if data.startswith(png.MAGIC):
            return _png(data, max_pixels)
        if data.startswith(tiff.MAGIC):
            return _tiff(data, max_pixels, limits)
        if webp.is_webp(data):
            return _webp(data, max_pixels)
        return _plain(data, max_pixels)
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError(unknown(data)) from None
    except Image.DecompressionBombError as error:
        reason = str(error).rstrip(".")
        raise UnreadableError(
            f"more pixels than are ever opened ({reason}): scale the picture down"
        ) from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode the picture") from None
    except Exception as error:
        # Pillow's decoders raise almost any type on corrupt bytes; the frame is unreadable all the same.
        raise UnreadableError(_reason(error)) from None


def _opened(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if width * height > max_pixels:
        raise UnreadableError(
            f"{width}x{height} pixels are more than max_pixels={max_pixels}: "
            "scale the picture down or raise max_pixels"
        )
    return picture


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
    if layout is not None and layout.extras > jpeg.MOST_EXTRAS:
        data = jpeg.without_extras(data, layout)
        layout = jpeg.layout(data, limits.jpeg_scans)
    with _opened(data, max_pixels) as picture:
        if layout is None:
            picture.load()
        elif not jpeg.load(picture, data, layout):
            raise UnreadableError(damaged("a part of its pixels is missing"))
        return pixels.to_rgb(picture)


def _png(data: bytes, max_pixels: int) -> np.ndarray:
    png.check(data)
    if not png.has_many_chunks(data):
        try:
            return _png_pixels(data, max_pixels)
        except UnreadableError:
            raise
        except (OSError, SyntaxError, ValueError):
            pass  # maybe a chunk beside the pixels is damaged, cut off, or larger than Pillow takes
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
                raise UnreadableError(f"damaged, or else {tiff.unsupported(directory)}") from None
            raise
        return pixels.to_rgb(picture, *tiff.samples(directory))


_UNSUPPORTED = re.compile(
    r"unsupported|not (yet )?supported|raw mode|not available|cannot handle", re.IGNORECASE
)
"""How Pillow says that it lacks a part, and not the file."""


def _reason(error: Exception) -> str:
    """The decoder's own words; of errors that only a programmer could read, their kind."""
    text = one_line(str(error))
    if isinstance(error, OSError | SyntaxError | ValueError) and text:
        text = re.sub(r"b'([^']*)'", r"\1", text)
        if _UNSUPPORTED.search(text):
            return f"this kind of picture is not supported ({text}): convert to JPEG or PNG ({SUPPORTED})"
        return damaged(text)
    return damaged(f"its data contradict themselves, {type(error).__name__}")

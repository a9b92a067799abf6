"""Encoded picture bytes to RGB pixels, or the reason why not in words a person can act on."""

import io

import numpy as np
from PIL import Image, ImageOps

Image.init()  # with a list of formats, `Image.open` looks only at those whose plugins are loaded already

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's decoders that are let near a frame; others (PostScript, say) start programs or are rare. The
phones' multi-picture JPEG (MPO) opens as JPEG."""

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


class UnreadableError(ValueError):
    """A frame that gives no pixels; the message says why."""


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode one picture.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures become 8-bit RGB; transparent
    parts are laid over white, as viewers show them; of an animation the first frame is taken.

    Args:
        data: an encoded picture in one of FORMATS.
        max_pixels: larger pictures are refused before their pixels are decoded, which guards against
            decompression bombs.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnreadableError: empty, truncated, corrupt, too large, or not a supported format.
    """
    if not data:
        raise UnreadableError("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture, max_pixels)
            return np.asarray(_to_rgb(picture))
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError(_unknown_format(data)) from None
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"{error}") from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode the picture") from None
    except Exception as error:
        # Pillow's decoders raise almost any type on corrupt bytes; the frame is unreadable all the same.
        reason = str(error) or type(error).__name__
        raise UnreadableError(f"the picture is damaged or cut off: {reason}") from None


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise UnreadableError(
            f"{width}x{height} pixels are more than max_pixels={max_pixels}: "
            "scale the picture down or raise max_pixels"
        )


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    if picture.mode == "F":
        raise UnreadableError("32-bit float pixels have no fixed range: convert the picture to 8 or 16 bit")
    if picture.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion to RGB clips at 255 instead of scaling.
        wide = np.asarray(ImageOps.exif_transpose(picture)).astype(np.int64)
        narrow = np.clip(wide, 0, 65535) // 257
        return Image.fromarray(narrow.astype(np.uint8)).convert("RGB")
    upright = ImageOps.exif_transpose(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright).convert("RGB")
    return upright.convert("RGB")


def _unknown_format(data: bytes) -> str:
    supported = "supported are JPEG, PNG, WebP, BMP, GIF, TIFF and PPM"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return f"HEIC and AVIF pictures are not supported: convert to JPEG or PNG ({supported})"
    return f"not a picture (starts with {data[:8]!r}); {supported}"

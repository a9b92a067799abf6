"""Encoded picture bytes to RGB pixels, or the reason why not in words a person can act on."""

import io
import re

import numpy as np
from PIL import ExifTags, Image

Image.init()  # with a list of formats, `Image.open` looks only at those whose plugins are loaded already

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's decoders that are let near a frame; others (PostScript, say) start programs or are rare. The
phones' multi-picture JPEG (MPO) opens as JPEG."""

SUPPORTED = "supported are JPEG, PNG, WebP, BMP, GIF, TIFF and PPM"

# What people's folders hold under a picture's name, by its first bytes; `.` stands for any byte.
_BROKEN = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF|II\*\0|MM\0\*", re.DOTALL)
_PICTURES = (
    (rb"....ftyp(heic|heix|hevc|mif1|msf1|avif|avis)", "HEIC and AVIF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "Photoshop (PSD)"),
    (rb"\s*(<\?xml[^<]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "SVG"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (rb"....ftypcrx|II\*\0....CR|FUJIFILMCCD|IIRO|IIRS|MMOR|IIU\0", "Camera raw"),
)
_OTHERS = (
    (rb"\s*(<!DOCTYPE html|<html|<head|<body)", "a web page (HTML), as a failed download leaves it"),
    (rb"\s*<\?xml|\s*<Error>", "XML, as an object store answers with an error"),
    (rb"\s*[{\[]", "JSON or other text"),
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "a compressed file: unpack it"),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes EXIF's orientation."""


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
        reason = str(error).rstrip(".")
        raise UnreadableError(
            f"more pixels than are ever opened ({reason}): scale the picture down"
        ) from None
    except MemoryError:
        raise UnreadableError("not enough memory to decode the picture") from None
    except Exception as error:
        # Pillow's decoders raise almost any type on corrupt bytes; the frame is unreadable all the same.
        raise UnreadableError(_damaged(_words(error))) from None


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
        wide = np.asarray(_upright(picture)).astype(np.int64)
        narrow = np.clip(wide, 0, 65535) // 257
        return Image.fromarray(narrow.astype(np.uint8)).convert("RGB")
    upright = _upright(picture)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright).convert("RGB")
    return upright.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """As EXIF says it was held. Pillow's own `exif_transpose` also rewrites the EXIF data, and fails where
    those are damaged, though the pixels are good."""
    try:
        method = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return picture
    return picture if method is None else picture.transpose(method)


def _unknown_format(data: bytes) -> str:
    start = data[:512]
    for pattern, name in _PICTURES:
        if re.match(pattern, start, re.DOTALL):
            return f"{name} pictures are not supported: convert to JPEG or PNG ({SUPPORTED})"
    for pattern, what in _OTHERS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"not a picture but {what}; {SUPPORTED}"
    if _BROKEN.match(start):
        return _damaged("its header cannot be read")
    if not data.strip(b"\0"):
        return f"not a picture but {len(data)} zero bytes, as a copy that did not finish leaves them"
    return f"not a picture (first bytes: {data[:8].hex(' ')}); {SUPPORTED}"


def _damaged(reason: str) -> str:
    return f"the picture is damaged or cut off ({reason}): copy or export it again"


def _words(error: Exception) -> str:
    """The decoder's own words; of errors that only a programmer could read, their kind."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError | SyntaxError | ValueError) and text:
        return re.sub(r"b'([^']*)'", r"\1", text)
    return f"its data contradict themselves, {type(error).__name__}"

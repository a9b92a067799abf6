"""Convert pixels of any depth, mode and orientation to 8-bit RGB, one band of rows at a time.

Bands save memory: besides Pillow's pixels and the result, only one band of intermediate pixels is in memory.
"""

import numpy as np
from PIL import ExifTags, Image

from faceq.errors import UnreadableError
from faceq.sources.decode import colour

_BAND = 1 << 21
"""Maximum pixels in a band. Most images fit into one band, which saves a copy."""

_SPACES = {"1": "L", "LA": "L", "La": "L", "L": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""The mode in which the colours of each Pillow mode are converted to sRGB; RGB for all others. Grey with more
than 8 bits is converted as L."""

_MAX_EXIF = 1 << 20
"""Maximum bytes of EXIF data; larger data are ignored. Cameras write up to 64 KB."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation."""

_FROM_THE_END = (3, 4, 6, 7)
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations in which the first band becomes the last, and in which rows become columns."""


def to_rgb(
    picture: Image.Image, bits: int = 16, white_is_zero: bool = False, orientation: int | None = None
) -> np.ndarray:
    """The pixels of a loaded image.

    Args:
        bits: bits per sample of grey with more than 8 bits, which Pillow's mode does not contain.
        white_is_zero: whether zero is white in such samples.
        orientation: as in EXIF, 1 to 8; None: the one in the image's metadata.

    Returns:
        (H, W, 3) uint8 RGB in sRGB, upright.

    Raises:
        UnreadableError: the pixels have no fixed range.
    """
    if picture.mode == "F":
        raise UnreadableError("32-bit float pixels have no fixed range: convert the image to 8 or 16 bit")
    space = "L" if picture.mode.startswith("I") else _SPACES.get(picture.mode, "RGB")
    convert = colour.to_srgb(picture.info, space)
    turn = orientation_of(picture) if orientation is None else orientation
    width, height = picture.size
    rows = max(1, _BAND // width)

    def band(part: Image.Image) -> np.ndarray:
        if part.mode.startswith("I"):
            part = _narrow(part, bits, white_is_zero)
        part = _opaque_srgb(part, space, convert)
        return np.asarray(part.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else part)

    if rows >= height:
        return band(picture)
    out = np.empty((width, height, 3) if turn in _SIDEWAYS else (height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        place = slice(height - bottom, height - top) if turn in _FROM_THE_END else slice(top, bottom)
        out[(slice(None), place) if turn in _SIDEWAYS else place] = band(
            picture.crop((0, top, width, bottom))
        )
    return out


def orientation_of(picture: Image.Image) -> int:
    """The orientation from EXIF or XMP, 1 to 8; 1 if it is missing or damaged.

    Pillow itself applies a TIFF's orientation when it loads the image. (Pillow's `exif_transpose` is not
    used: it also rewrites the EXIF data, and fails if they are damaged although the pixels are intact.)
    """
    if len(picture.info.get("exif") or b"") > _MAX_EXIF:
        return 1
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def to_rgba(picture: Image.Image) -> Image.Image:
    """A loaded PNG, GIF or WebP as RGBA, its samples reduced to 8 bits."""
    part = _narrow(picture, 16, False) if picture.mode.startswith("I") else picture
    return part.convert("RGBA")


def _narrow(part: Image.Image, bits: int, white_is_zero: bool) -> Image.Image:
    """Reduce grey with more than 8 bits to its upper eight bits: L, or LA if one level is transparent."""
    wide = np.asarray(part)
    if wide.dtype == np.int32:
        wide = wide.view(np.uint32)
    narrow = (wide >> (bits - 8)).astype(np.uint8)
    grey = Image.fromarray(~narrow if white_is_zero else narrow)
    clear = part.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(wide == clear, np.uint8(0), np.uint8(255))))
    return grey


def _opaque_srgb(part: Image.Image, space: str, convert: colour.Convert | None) -> Image.Image:
    """Convert to RGB in sRGB, with transparent areas blended with white."""
    if part.mode == "La":
        part = part.convert("LA")
    if not part.has_transparency_data:
        if convert:
            part = convert(part.convert(space))
        return part if part.mode == "RGB" else part.convert("RGB")
    clear = part.convert("RGBA")
    if convert:
        alpha = clear.getchannel("A")
        clear = convert(clear.convert("RGB").convert(space)).convert("RGB")
        clear.putalpha(alpha)
    white = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(white, clear).convert("RGB")

"""Pixels of any depth, mode and orientation to 8-bit RGB, a band of rows at a time.

The bands keep memory low: beside Pillow's pixels and the result there is one band's worth of what comes
between them.
"""

import numpy as np
from PIL import ExifTags, Image

from faceq.errors import UnreadableError
from faceq.sources.decode import colour

_BAND = 1 << 21
"""Pixels of a band. Most pictures are one, which costs no copy."""

_SPACES = {"1": "L", "LA": "L", "La": "L", "L": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""The mode in which colours are converted, RGB for all others; wide grey becomes L."""

_MOST_EXIF = 1 << 20
"""Bytes of EXIF data that are looked into; cameras write up to 64 KB."""

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

_FROM_THE_END = (3, 4, 6, 7)
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations by which the first band comes last, and by which rows become columns."""


def to_rgb(picture: Image.Image, bits: int = 16, white_is_zero: bool = False) -> np.ndarray:
    """The pixels of a picture that is loaded.

    Args:
        bits, white_is_zero: of grey samples of more than 8 bits, which the picture does not say.

    Returns:
        (H, W, 3) uint8 RGB in sRGB, upright.

    Raises:
        UnreadableError: the pixels have no fixed range.
    """
    if picture.mode == "F":
        raise UnreadableError("32-bit float pixels have no fixed range: convert the picture to 8 or 16 bit")
    space = "L" if picture.mode.startswith("I") else _SPACES.get(picture.mode, "RGB")
    convert = colour.to_srgb(picture.info, space)
    turn = _orientation(picture)
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


def _orientation(picture: Image.Image) -> int:
    """As EXIF or XMP say that the camera was held, 1 to 8; 1 where they say nothing or are damaged. TIFF's
    own is undone when Pillow loads it. (Pillow's `exif_transpose` also rewrites the EXIF data, and fails
    where those are damaged, though the pixels are good.)"""
    if len(picture.info.get("exif") or b"") > _MOST_EXIF:
        return 1
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _narrow(part: Image.Image, bits: int, white_is_zero: bool) -> Image.Image:
    """Grey of more than 8 bits as L, or as LA if one of its levels is transparent: the upper eight bits."""
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
    """RGB of sRGB, its transparent parts over white."""
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

"""TIFF: information that Pillow does not expose (bits per sample), and detection of unsupported kinds."""

import contextlib
import struct
from dataclasses import dataclass

from PIL import ImagePalette
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from faceq.errors import UnreadableError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Unsigned integers of 1, 2, 4 and 8 bytes; tags of other types are ignored."""

_SUB_FILE, _WIDTH, _HEIGHT = 254, 256, 257
_BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS = 258, 259, 262, 273
_SAMPLES, _PLANES, _COLOUR_MAP, _TILES, _EXTRA, _FORMAT, _SUBSAMPLING = 277, 284, 320, 324, 338, 339, 530
_DNG = 50706

_UNKNOWN_FORM = "BigTIFF, big-endian"
"""Pillow misreads this form: it treats the 8-byte offsets as 4-byte offsets."""

_MAX_ENTRIES = 65535
_BYTES_OF_A_STRIP = 320
"""Memory that Pillow takes for each strip or tile of a TIFF; measured."""

_BYTES_OF_A_NUMBER = 48
"""Memory that Python takes for each number in a tag."""

_PHOTOMETRICS = {
    **{0: "grey, white is zero", 1: "grey", 2: "RGB", 3: "palette", 4: "transparency mask", 5: "CMYK"},
    **{6: "YCbCr", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "colour filter array"},
    **{32844: "LogL", 32845: "LogLuv", 34892: "linear raw"},
}
_FORMATS = {1: "", 2: " signed", 3: " floating-point", 4: " untyped", 5: " complex", 6: " complex"}
_COMPRESSIONS = {
    **{1: "none", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "Deflate"},
    **{32773: "PackBits", 32946: "Deflate", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"},
    **{34676: "SGILog", 34677: "SGILog", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 34934: "JPEG XR"},
    **{50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
}


@dataclass(frozen=True)
class Directory:
    """The tags of the first image that contain unsigned integers.

    values: the first values of each tag, at most 8. counts: the number of values that each tag states. form:
    the name of the format, TIFF or BigTIFF.
    """

    values: dict[int, tuple[int, ...]]
    counts: dict[int, int]
    form: str

    @property
    def is_whole(self) -> bool:
        """Whether it contains the image's size and the location of its pixels."""
        return {_WIDTH, _HEIGHT} <= self.values.keys() and bool({_STRIPS, _TILES} & self.values.keys())

    @property
    def is_rarely_supported(self) -> bool:
        """Whether some builds of libtiff lack the codec for the pixels."""
        return self.first(_COMPRESSION, 1) in (34887, 34925, 50000, 50001)

    def first(self, tag: int, default: int) -> int:
        return self.values.get(tag, (default,))[0]


def directory(data: bytes) -> Directory | None:
    """Parse the first directory of a TIFF; None if it is missing or damaged."""
    order = ">" if data[:2] == b"MM" else "<"
    big = data[2:4] in (b"+\0", b"\0+")
    offset = order + ("Q" if big else "I")
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    try:
        (at,) = struct.unpack_from(offset, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    except struct.error:
        return None
    if count > _MAX_ENTRIES:
        return None
    at += 8 if big else 2
    whole = min(count, max(0, len(data) - at) // entry.size)
    values, counts = {}, {}
    for tag, kind, number, inline in entry.iter_unpack(data[at : at + whole * entry.size]):
        if kind in _TYPES and number:
            counts[tag] = number
            fits = number * struct.calcsize(_TYPES[kind]) <= len(inline)
            place = 0 if fits else struct.unpack(offset, inline)[0]
            with contextlib.suppress(struct.error):
                form = f"{order}{min(number, 8)}{_TYPES[kind]}"
                values[tag] = struct.unpack_from(form, inline if fits else data, place)
    form = "TIFF" if not big else "BigTIFF" if order == "<" else _UNKNOWN_FORM
    return Directory(values, counts, form)


def check(found: Directory, source_memory: int) -> None:
    """Check for images that Pillow would misread, and for those that would take too much memory.

    Raises:
        UnreadableError: the image is one of these.
    """
    if _DNG in found.values:
        raise UnreadableError("Camera raw (DNG) images are not supported: develop them to JPEG or PNG")
    if found.first(_SUB_FILE, 0) & 1:
        raise UnreadableError(
            "this TIFF begins with a preview, like a camera raw file: export the image itself as JPEG or PNG"
        )
    if found.first(_FORMAT, 1) != 1 or found.form == _UNKNOWN_FORM:
        raise UnreadableError(unsupported(found))
    subsampled = set(found.values.get(_SUBSAMPLING, (2, 2))) != {1}
    if found.first(_PHOTOMETRIC, 1) == 6 and found.first(_COMPRESSION, 1) == 1 and subsampled:
        raise UnreadableError(unsupported(found))
    parts = max(found.counts.get(_STRIPS, 0), found.counts.get(_TILES, 0))
    numbers = max(found.counts.values(), default=0)
    if max(parts * _BYTES_OF_A_STRIP, numbers * _BYTES_OF_A_NUMBER) > source_memory:
        raise UnreadableError(
            f"a tag with {numbers} values takes more memory than limits.source_memory={source_memory}: "
            "save the TIFF again with fewer strips or tiles, or raise the limit"
        )


def unsupported(found: Directory) -> str:
    """The message for an unsupported kind of TIFF: which kind it is, and what to do."""
    bits = "/".join(map(str, sorted(set(found.values.get(_BITS, (1,))))))
    photometric, compression = found.first(_PHOTOMETRIC, 0), found.first(_COMPRESSION, 1)
    kind = (
        f"{_PHOTOMETRICS.get(photometric, f'photometric interpretation {photometric}')}, "
        f"{found.first(_SAMPLES, 1)} x {bits}-bit{_FORMATS.get(found.first(_FORMAT, 1), ' unknown')}, "
        f"compression {_COMPRESSIONS.get(compression, compression)}"
    )
    return f"this kind of {found.form} is not supported ({kind}): convert it to 8-bit RGB, or to PNG"


def mend(picture: ImageFile, found: Directory) -> None:
    """Correct what Pillow misreads, before the pixels are loaded."""
    assert isinstance(picture, TiffImageFile)
    if found.first(_PLANES, 1) == 2 and found.first(_BITS, 8) == 16 and found.first(_COMPRESSION, 1) == 1:
        # Pillow reads 16-bit planes as if they had 8 bits.
        order = "B" if picture.tag_v2.prefix == b"MM" else "L"
        picture.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            for tile in picture.tile
            if isinstance(tile.args, tuple)
        ]
    if picture.mode == "P":
        colours = picture.tag_v2[_COLOUR_MAP]
        if max(colours) < 256:
            # Some programs write 8-bit values here, although the format requires 16-bit values.
            picture.palette = ImagePalette.raw("RGB;L", bytes(colours))


def samples(found: Directory) -> tuple[int, bool]:
    """Bits per sample of a grey image, and whether zero is white."""
    return found.first(_BITS, 1), found.first(_PHOTOMETRIC, 0) == 0

"""PNG, where Pillow is stricter than other decoders, or takes a colour for one of another depth."""

import struct
import zlib
from collections.abc import Iterator

from PIL.ImageFile import ImageFile

from faceq.errors import UnreadableError

MAGIC = b"\x89PNG\r\n\x1a\n"

MAX_PROFILE = 8 << 20
"""Bytes of an unpacked colour profile; those of printers have one to four million."""

_KEPT = {b"tRNS": range(1, 257), b"gAMA": range(4, 5), b"sRGB": range(1, 2), b"eXIf": range(1, 1 << 20)}
"""Chunks beside the critical ones that decide about pixels, and the sizes that they may have."""

_OF_PIXELS = ("icc_profile", "gamma", "srgb", "transparency")
"""Pillow's names of what must stand before the pixels."""

_XMP = b"XML:com.adobe.xmp\0\0"
_MOST_XMP = 1 << 20

_LARGE = 8 << 20
_MOST_CHUNKS = 10_000


def check(data: bytes) -> None:
    """Raises UnreadableError for what only looks like a PNG."""
    if data[12:16] == b"CgBI":
        raise UnreadableError(
            "a PNG as Xcode packs it into apps (CgBI) is not supported: "
            "convert it with `pngcrush -revert-iphone-optimizations`"
        )


def has_many_chunks(data: bytes) -> bool:
    """Whether its chunks, other than those of pixels, are so many that they take minutes and gigabytes."""
    others = 0
    if len(data) > _LARGE:
        for kind, _, _ in _chunks(data):
            others += kind != b"IDAT"
            if others > _MOST_CHUNKS:
                return True
    return False


def needed_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """The file without texts and whatever else does not matter to the pixels, and its colour profile.

    Chunks that are not critical are also left out if their checksum is wrong, as libpng does. Nothing is
    unpacked but the profile, and that not beyond MAX_PROFILE.
    """
    parts, profile = [MAGIC], None
    for kind, start, length in _chunks(data):
        whole = data[start - 8 : start + length + 4]
        critical = not kind[0] & 0x20
        xmp = kind == b"iTXt" and data.startswith(_XMP, start) and length < _MOST_XMP
        wanted = xmp or kind == b"iCCP" or length in _KEPT.get(kind, ())
        if critical or (wanted and struct.pack(">I", zlib.crc32(whole[4:-4])) == whole[-4:]):
            if kind == b"iCCP":
                profile = _unpacked(whole[8:-4])
            else:
                parts.append(whole)
    return b"".join(parts), profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each chunk's content."""
    at = len(MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        at += length + 12


def _unpacked(chunk: bytes) -> bytes | None:
    """The profile of an iCCP chunk: a name, 0, the method (0), zlib data."""
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(chunk[chunk.index(b"\0") + 2 :], MAX_PROFILE)
    except (ValueError, zlib.error):
        return None
    return None if unpacking.unconsumed_tail else profile


def load(picture: ImageFile, data: bytes) -> None:
    """Decodes the pixels, and puts right what Pillow says of them.

    What comes behind the pixels, where Pillow checks no checksum, does not count. The transparent colour,
    which is written in the file's depth, is brought to that of Pillow's pixels.
    """
    before = dict(picture.info)
    picture.load()
    for key in _OF_PIXELS:
        picture.info.pop(key, None)
        if key in before:
            picture.info[key] = before[key]
    colour = picture.info.get("transparency")
    depth = data[24]
    if picture.mode == "L" and isinstance(colour, int):
        picture.info["transparency"] = (colour & ((1 << depth) - 1)) * 255 // ((1 << depth) - 1)
    elif picture.mode == "RGB" and isinstance(colour, tuple):
        picture.info["transparency"] = tuple(c >> 8 if depth == 16 else c & 255 for c in colour)

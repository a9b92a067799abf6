"""PNG: workarounds where Pillow is stricter than other decoders or misreads the transparent colour."""

import struct
import zlib
from collections.abc import Iterator

from PIL.ImageFile import ImageFile

from faceq.errors import UnreadableError

MAGIC = b"\x89PNG\r\n\x1a\n"

MAX_PROFILE = 8 << 20
"""Maximum bytes of an unpacked colour profile; printer profiles have one to four million."""

_KEPT = {b"tRNS": range(1, 257), b"gAMA": range(4, 5), b"sRGB": range(1, 2), b"eXIf": range(1, 1 << 20)}
"""Ancillary chunks that affect the pixels, and their permitted sizes."""

_OF_PIXELS = ("icc_profile", "gamma", "srgb", "transparency")
"""Pillow's names for information from chunks that must precede the pixels."""

_XMP = b"XML:com.adobe.xmp\0\0"
_MAX_XMP = 1 << 20

_LARGE = 8 << 20
_MAX_CHUNKS = 10_000


def check(data: bytes) -> None:
    """Raises UnreadableError for Apple's variant of PNG, which Pillow cannot decode."""
    if data[12:16] == b"CgBI":
        raise UnreadableError(
            "Apple's PNG variant for apps (CgBI) is not supported: "
            "convert it with `pngcrush -revert-iphone-optimizations`"
        )


def has_many_chunks(data: bytes) -> bool:
    """Whether the file has so many chunks without pixels that decoding would take minutes and gigabytes."""
    others = 0
    if len(data) > _LARGE:
        for kind, _, _ in _chunks(data):
            others += kind != b"IDAT"
            if others > _MAX_CHUNKS:
                return True
    return False


def needed_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """The file without chunks that do not affect the pixels, such as texts, and its colour profile.

    Ancillary chunks with a wrong checksum are also left out, as in libpng. Only the profile is unpacked, up
    to MAX_PROFILE.
    """
    parts, profile = [MAGIC], None
    for kind, start, length in _chunks(data):
        whole = data[start - 8 : start + length + 4]
        critical = not kind[0] & 0x20
        xmp = kind == b"iTXt" and data.startswith(_XMP, start) and length < _MAX_XMP
        wanted = xmp or kind == b"iCCP" or length in _KEPT.get(kind, ())
        if critical or (wanted and struct.pack(">I", zlib.crc32(whole[4:-4])) == whole[-4:]):
            if kind == b"iCCP":
                profile = _unpacked(whole[8:-4])
            else:
                parts.append(whole)
    return b"".join(parts), profile


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and the offset and length of its content."""
    at = len(MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, length
        at += length + 12


def _unpacked(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk, which consists of a name, a zero byte, the method (0) and zlib data."""
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(chunk[chunk.index(b"\0") + 2 :], MAX_PROFILE)
    except (ValueError, zlib.error):
        return None
    return None if unpacking.unconsumed_tail else profile


def load(picture: ImageFile, data: bytes) -> None:
    """Decode the pixels, and correct the information that Pillow attaches to them.

    Chunks after the pixels are ignored, because Pillow does not verify their checksums. The transparent
    colour is stored in the file's bit depth and is converted to the depth of Pillow's pixels.
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

"""JPEG 2000, decoded by the OpenJPEG in Pillow or OpenCV after checks for what they would misread.

Source: ISO/IEC 15444-1, annexes A (codestream) and I (file format).
"""

import io
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.boxes import children
from faceq.sources.decode.file_types import damaged

CODESTREAM = b"\xff\x4f\xff\x51"
_FILE = b"\0\0\0\x0cjP  \r\n\x87\n"
MAGIC = (CODESTREAM, _FILE)

_SOT, _EOC = b"\xff\x90", b"\xff\xd9"
_SIZ = struct.Struct(">HHIIIIIIIIH")
_SPACES = {0, 12, 15, 16, 17, 18}
"""Enumerated colour spaces that Pillow converts: bi-level, CMYK, sRGB, grey and sYCC."""

_MOST_TILES = 65535


@dataclass(frozen=True)
class _Size:
    """The size of the image according to its codestream.

    components: bits per sample - 1, and the distances of the samples in both directions, of each component.
    end: offset of what follows the size.
    """

    width: int
    height: int
    tiles: int
    components: list[bytes]
    end: int

    @property
    def bits(self) -> int:
        return max(each[0] & 0x7F for each in self.components) + 1


def read(data: bytes, check_pixels: Callable[[int, int], None]) -> Image.Image:
    """Decode an image.

    Args:
        data: the file.
        check_pixels: called with width and height before the pixels are decoded.

    Raises:
        UnreadableError: it is not supported, too large, or pixels are missing.
        Exception: the file is damaged.
    """
    start, end, profile = 0, len(data), None
    if data.startswith(_FILE):
        start, end, profile = _parts(data)
    try:
        size = _size(data, start)
        whole = _is_whole(data, size, end)
    except (struct.error, IndexError):
        raise UnreadableError(damaged("its header is cut off")) from None
    check_pixels(size.width, size.height)
    if kind := _unsupported(size):
        raise UnreadableError(f"JPEG 2000 with {kind} is not supported: convert it to 8-bit RGB, or to PNG")
    if not whole:
        raise UnreadableError(damaged("some of its pixels are missing"))
    if data[end - 2 : end] != _EOC:
        data = data[:end] + _EOC  # OpenJPEG refuses images without it, although all pixels are there
    deep = len(size.components) > 1 and size.bits > 8
    picture = _by_opencv(data, size) if deep else _by_pillow(data, check_pixels)
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _by_pillow(data: bytes, check_pixels: Callable[[int, int], None]) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=("JPEG2000",))
    check_pixels(*picture.size)
    picture.load()
    return picture


def _by_opencv(data: bytes, size: _Size) -> Image.Image:
    """Decode colours of more than 8 bits. (Pillow rounds them up, and the brightest ones to 0.)"""
    import cv2  # noqa: PLC0415 - takes a while to import, and readers do not need it otherwise

    wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if wide is None:
        raise UnreadableError(damaged("broken data stream"))
    if wide.dtype != np.uint16 or wide.shape != (size.height, size.width, len(size.components)):
        raise UnreadableError("this kind of JPEG 2000 is not supported: convert it to 8-bit RGB, or to PNG")
    order = cv2.COLOR_BGR2RGB if wide.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return Image.fromarray(cv2.cvtColor(np.right_shift(wide, size.bits - 8).astype(np.uint8), order))


def _parts(data: bytes) -> tuple[int, int, bytes | None]:
    """Start and end of the first codestream, and the colour profile."""
    profile = None
    for kind, start, end in children(data, 0, len(data)):
        if kind == b"jp2h":
            profile = _profile(data, start, end)
        elif kind == b"jp2c":
            return start, end, profile
    raise UnreadableError(damaged("it contains no pixels"))


def _profile(data: bytes, start: int, end: int) -> bytes | None:
    """The first profile among the descriptions of the colours."""
    enumerated = []
    for kind, first, last in children(data, start, end):
        if kind == b"colr" and data[first : first + 1] in (b"\2", b"\3"):
            return data[first + 3 : last]
        if kind == b"colr":
            enumerated.append(int.from_bytes(data[first + 3 : first + 7], "big"))
    if enumerated and not _SPACES & set(enumerated):
        raise UnreadableError(
            f"JPEG 2000 with colour space {enumerated[0]} is not supported: convert it to sRGB, or to PNG"
        )
    return None


def _size(data: bytes, start: int) -> _Size:
    if data[start : start + 4] != CODESTREAM:
        raise UnreadableError(damaged("its codestream does not begin with a size"))
    length, _, right, bottom, left, top, wide, high, x, y, count = _SIZ.unpack_from(data, start + 4)
    if not (left < right and top < bottom and wide and high and x <= left and y <= top and count):
        raise UnreadableError(damaged("its size is not valid"))
    tiles = -(-(right - x) // wide) * -(-(bottom - y) // high)
    first = start + 4 + _SIZ.size
    components = [data[at : at + 3] for at in range(first, min(first + 3 * count, start + 4 + length), 3)]
    return _Size(right - left, bottom - top, tiles, components, start + 4 + length)


def _unsupported(size: _Size) -> str:
    """What is not supported about an image; empty if nothing is."""
    if len(size.components) > 4:
        return f"{len(size.components)} components"
    if any(each[0] & 0x80 for each in size.components):
        return "signed samples"
    if size.bits > 16:
        return "more than 16 bits per sample"
    if size.bits > 8 and (len(size.components) == 2 or len(set(size.components)) > 1):
        return "components of different kinds and more than 8 bits"
    return f"{size.tiles} tiles" if size.tiles > _MOST_TILES else ""


def _is_whole(data: bytes, size: _Size, end: int) -> bool:
    """Whether all parts of all tiles are there. (OpenJPEG fills the missing ones with grey.)"""
    at = size.end
    while data[at : at + 2] != _SOT:
        if data[at : at + 1] != b"\xff" or at + 4 > end:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    there, stated = Counter[int](), dict[int, int]()
    while data[at : at + 2] == _SOT and at + 12 <= end:
        tile, length, _, parts = struct.unpack_from(">HIBB", data, at + 4)
        there[tile] += 1
        stated[tile] = max(stated.get(tile, 1), parts)
        if length == 0:  # the last part, up to the end of the image
            return data[end - 2 : end] == _EOC and _has_all(size, there, stated)
        if length < 14 or at + length > end:
            return False
        at += length
    return _has_all(size, there, stated)


def _has_all(size: _Size, there: Counter[int], stated: dict[int, int]) -> bool:
    return len(there) == size.tiles and all(there[tile] >= parts for tile, parts in stated.items())

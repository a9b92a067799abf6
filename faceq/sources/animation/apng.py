"""Cut an animated PNG into its frames.

Source: Portable Network Graphics specification, third edition, W3C, section 11.3.2.
"""

import struct
import zlib
from collections.abc import Iterator

from faceq.sources.animation.pieces import Animation, Dispose, Piece
from faceq.sources.video.errors import DamagedError

MAGIC = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">II5s")
_CONTROL = struct.Struct(">IIIIIHHBB")
_DISPOSE: tuple[Dispose, ...] = ("keep", "clear", "restore")
_KEPT = (b"PLTE", b"tRNS")
"""Chunks before the pixels that all frames need. Colours are converted after the frames are composed."""

_END = b"\0\0\0\0IEND\xae\x42\x60\x82"


def read(data: bytes) -> Animation:
    """Raises struct.error if the file is damaged before its first frame."""
    width, height, _ = _HEADER.unpack_from(data, 16)
    return Animation(width, height, _pieces(data))


def has_several(data: bytes) -> bool:
    """Whether the file is marked as an animation of several frames."""
    for kind, start, end in _chunks(data):
        if kind == b"acTL" and end <= len(data):
            return int.from_bytes(data[start : start + 4], "big") > 1
        if kind == b"IDAT":
            break
    return False


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and start and end of its content; the end may be beyond the data."""
    at = len(MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, at + 8 + length
        at += length + 12


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def _pieces(data: bytes) -> Iterator[Piece]:
    stated, count = 0, 0
    *_, depth = _HEADER.unpack_from(data, 16)
    shared, pixels, control = list[bytes](), list[bytes](), b""

    def piece() -> Piece:
        _, wide, high, left, top, share, of, dispose, blend = _CONTROL.unpack(control)
        parts = [MAGIC, _chunk(b"IHDR", _HEADER.pack(wide, high, depth)), *shared]
        still = b"".join((*parts, *(_chunk(b"IDAT", each) for each in pixels), _END))
        how: Dispose = _DISPOSE[dispose] if dispose < 3 else "keep"
        return Piece(
            still, (left, top, left + wide, top + high), 1000 * share // (of or 100), how, blend == 1
        )

    for kind, start, end in _chunks(data):
        content = data[start:end]
        if kind in (b"fcTL", b"IEND"):
            if control and pixels:
                yield piece()
                count += 1
            pixels, control = [], content
            if kind == b"IEND" or (kind == b"fcTL" and len(content) != _CONTROL.size):
                break
        elif kind == b"acTL":
            stated = int.from_bytes(content[:4], "big")
        elif kind in _KEPT and end + 4 <= len(data):
            shared.append(data[start - 8 : end + 4])
        elif kind in (b"IDAT", b"fdAT"):
            if data[end : end + 4] != struct.pack(">I", zlib.crc32(kind + content)):
                break
            # Pixels before the first control chunk are a still image for viewers without animations.
            pixels.append(content if kind == b"IDAT" else content[4:])
    if count < stated:
        raise DamagedError(f"damaged after {count} of {stated} frames: copy or export it again")

"""Cut an animated WebP into its frames.

Source: WebP container specification, https://developers.google.com/speed/webp/docs/riff_container.
"""

import struct
from collections.abc import Iterator

from faceq.sources.animation.pieces import Animation, Piece
from faceq.sources.video.errors import DamagedError

_ANIMATED, _ALPHA = 0x02, 0x10


def read(data: bytes) -> Animation:
    """Raises DamagedError if the file is damaged before its first frame."""
    for kind, start, end in _chunks(data, 12, len(data)):
        if kind == b"VP8X" and end - start >= 10:
            return Animation(_three(data, start + 4) + 1, _three(data, start + 7) + 1, _pieces(data))
        break
    raise DamagedError("the animation has no size: copy or export it again")


def has_several(data: bytes) -> bool:
    """Whether the file has more than one frame, or the beginning of more than one."""
    if data[12:16] != b"VP8X" or not data[20:21] or not data[20] & _ANIMATED:
        return False
    frames = 0
    for kind, *_ in _chunks(data, 12, len(data)):
        frames += kind == b"ANMF"
        if frames > 1:
            return True
    return False


def _chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and start and end of its content; the end may be beyond the data."""
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, at + 8, at + 8 + length
        at += 8 + length + length % 2


def _three(data: bytes, at: int) -> int:
    """A number of three bytes."""
    return int.from_bytes(data[at : at + 3], "little")


def _pieces(data: bytes) -> Iterator[Piece]:
    (size,) = struct.unpack_from("<I", data, 4)
    count = 0
    for kind, start, end in _chunks(data, 12, len(data)):
        if kind != b"ANMF":
            continue
        if end > len(data) or end - start < 16:
            size = len(data)
            break
        left, top = 2 * _three(data, start), 2 * _three(data, start + 3)
        wide, high = _three(data, start + 6) + 1, _three(data, start + 9) + 1
        flags = data[start + 15]
        content = [data[at - 8 : to + (to - at) % 2] for _, at, to in _chunks(data, start + 16, end)]
        if any(each.startswith(b"ALPH") for each in content):
            size_of_still = (wide - 1).to_bytes(3, "little") + (high - 1).to_bytes(3, "little")
            content.insert(0, struct.pack("<4sII", b"VP8X", 10, _ALPHA) + size_of_still)
        body = b"WEBP" + b"".join(content)
        still = b"RIFF" + struct.pack("<I", len(body)) + body
        box = left, top, left + wide, top + high
        yield Piece(still, box, _three(data, start + 12), "clear" if flags & 1 else "keep", not flags & 2)
        count += 1
    if size + 8 > len(data):
        raise DamagedError(f"damaged after {count} frames (it is cut off): copy or export it again")

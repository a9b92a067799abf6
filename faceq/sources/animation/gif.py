"""Cut a GIF into its frames.

Source: GIF89a specification, CompuServe, 1990.
"""

import struct
from collections.abc import Iterator

from faceq.sources.animation.pieces import Animation, Dispose, Piece
from faceq.sources.video.errors import DamagedError

MAGIC = (b"GIF87a", b"GIF89a")

_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B
_CONTROL = 0xF9
_SCREEN = struct.Struct("<6sHHBBB")
_RECTANGLE = struct.Struct("<HHHHB")
_DISPOSE: dict[int, Dispose] = {2: "clear", 3: "restore", 4: "restore"}
"""By disposal method. Method 4 is an old mistake for 3, which browsers accept."""


def read(data: bytes) -> Animation:
    """Raises struct.error, IndexError or DamagedError if the file is damaged before its first frame."""
    _, width, height, *_ = _SCREEN.unpack_from(data)
    pieces = _pieces(data)
    # Some encoders state a screen smaller than the first frame. Viewers enlarge it.
    for kind, at, _ in _blocks(data):
        if kind == _IMAGE:
            left, top, wide, high, _ = _RECTANGLE.unpack_from(data, at + 1)
            return Animation(max(width, left + wide), max(height, top + high), pieces)
    raise DamagedError("the animation has no frame: copy or export it again")


def has_several(data: bytes) -> bool:
    """Whether the file has more than one frame, or the beginning of more than one."""
    frames = 0
    try:
        for kind, *_ in _blocks(data):
            frames += kind == _IMAGE
            if frames > 1:
                return True
    except (struct.error, IndexError, DamagedError):
        pass
    return False


def _blocks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the kind, start and end of each block. The end of one that is cut off is beyond the data.

    Raises IndexError at the end of the data if the end block is missing, DamagedError for unknown blocks.
    """
    at = _SCREEN.size + _table(data[10])
    while data[at] != _END:
        kind = data[at]
        if kind == _IMAGE:
            start = at + 10 + _table(data[at + 9]) + 1
        elif kind == _EXTENSION:
            start = at + 2
        else:
            raise DamagedError("an unknown block")
        yield kind, at, (end := _end_of_parts(data, start))
        at = end


def _table(flags: int) -> int:
    """Size of a colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_parts(data: bytes, at: int) -> int:
    """The end of parts, each behind its length, from a place on; beyond the data if it is missing."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _pieces(data: bytes) -> Iterator[Piece]:
    count = 0
    control, delay, dispose = b"", 0, 0
    start = data[10:11] + data[11:13]
    table = data[_SCREEN.size : _SCREEN.size + _table(data[10])]
    try:
        for kind, at, end in _blocks(data):
            if kind == _EXTENSION and data[at + 1] == _CONTROL:
                flags, delay = struct.unpack_from("<BH", data, at + 3)
                control, dispose = data[at:end], flags >> 2 & 7
            elif kind == _IMAGE:
                left, top, wide, high, flags = _RECTANGLE.unpack_from(data, at + 1)
                if end > len(data):
                    raise DamagedError("it is cut off")
                screen = b"GIF89a" + struct.pack("<HH", wide, high) + start + table
                image = struct.pack("<BHHHHB", _IMAGE, 0, 0, wide, high, flags) + data[at + 10 : end]
                box = left, top, left + wide, top + high
                still = b"".join((screen, control, image, bytes([_END])))
                yield Piece(still, box, 10 * delay, _DISPOSE.get(dispose, "keep"), over=True)
                count += 1
                control, delay, dispose = b"", 0, 0
    except (struct.error, IndexError, DamagedError) as error:
        reason = str(error) if isinstance(error, DamagedError) else "it is cut off"
        raise DamagedError(f"damaged after {count} frames ({reason}): copy or export it again") from None

"""The boxes of MP4 and of the image formats with the same structure (AVIF, HEIC, JPEG 2000, JPEG XL)."""

import struct
from collections.abc import Iterator


def children(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box in a stretch of data, and start and end of its content.

    The content of a box that is cut off ends at `end`.
    """
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1 and start + 16 <= end:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else min(end, start + size)
        if size and size < header:
            return
        yield kind, start + header, stop
        start = stop

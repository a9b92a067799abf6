"""WebP files that are cut off: libwebp refuses them, although the first frame may be complete."""

import struct


def is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def whole_chunks(data: bytes) -> bytes | None:
    """The file without its last, incomplete chunk; None if the file is not cut off.

    If the pixels are in that chunk, no image is left.
    """
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 <= len(data):
        return None
    at = end = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if at + 8 + length > len(data):
            break
        at += 8 + length + length % 2  # chunks are padded to even sizes
        end = at
    content = data[12:end].ljust(end - 12, b"\0")
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content

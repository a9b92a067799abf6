"""Compressed files, by the usual programs; by Python's libraries where a program is not installed."""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import zlib
from collections.abc import Callable

import pyarrow as pa

FORMS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "Zstandard"}
"""Endings of compressed files, and the names of the formats in errors."""

PROGRAMS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}

_LIBRARIES: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def pack(data: bytes, form: str, *options: str) -> bytes:
    """Compress data. The libraries ignore the options of the programs."""
    program = PROGRAMS[form]
    if not shutil.which(program):
        return _LIBRARIES[form](data)
    command = [program, "-q", "-c", *options]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


class _Slow(io.BytesIO):
    """Returns few bytes at a time: Arrow returns nothing of what it gets together with damaged bytes."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(99)


def unpacked_start(data: bytes, form: str) -> bytes:
    """What a decoder returns for a file of one stream that is cut off or damaged, except for up to 63 bytes
    before the damage; for Zstandard up to a block. For gzip, the file must not be damaged."""
    if form == "gz":
        return zlib.decompressobj(wbits=31).decompress(data)
    found: list[bytes] = []
    with contextlib.suppress(OSError, EOFError, lzma.LZMAError):
        if form == "zst":
            file = pa.CompressedInputStream(pa.PythonFile(_Slow(data), "r"), "zstd")
            found.extend(iter(lambda: file.read(64), b""))
        else:
            decoder = {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[form]()
            found.append(decoder.decompress(data, 64))
            found.extend(iter(lambda: decoder.decompress(b"", 64), b""))
    return b"".join(found)

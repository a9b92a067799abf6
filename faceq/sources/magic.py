"""Name the format of a file that is not of the format that its reader expects.

Images, videos and shards under a wrong name are read as what they are (`faceq.sources.sniff`).
"""

import re

from faceq.sources.sniff import kind_of_bytes

_KINDS = {
    "picture": "an image",
    "video": "a video",
    "parquet": "a Parquet file",
    "record": "a RecordIO file",
    "lmdb": "an LMDB file",
    "tar": "a tar archive",
}
"""These formats only reach this module inside a compressed file."""

_UNPACK = "unpack it, or repack its files as .tar or .tar.gz"
_FOREIGN = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, advice)
    for pattern, what, advice in (
        # Tars in these formats are read, unless they are compressed twice or damaged at their start.
        (rb"\x1f\x8b", "a gzip file", "unpack it"),
        (rb"\xfd7zXZ\0", "an xz file", "unpack it"),
        (rb"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it"),
        (rb"BZh[1-9]", "a bzip2 file", "unpack it"),
        (rb"\x04\x22\x4d\x18", "an LZ4 file", _UNPACK),
        (rb"\x1f[\x9d\xa0]", "a compress (.Z) file", _UNPACK),
        (rb"LZIP", "an lzip file", _UNPACK),
        (rb"\x89LZO\0", "an lzop file", _UNPACK),
        (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb"07070[127]|\xc7\x71|\x71\xc7", "a cpio archive", _UNPACK),
        (rb"PARE", "an encrypted Parquet file", "decrypt it first"),
        (rb"ORC", "an ORC file", "convert it to Parquet"),
        (rb"ARROW1\0\0", "an Arrow IPC (Feather) file", "convert it to Parquet"),
        (rb"FEA1", "a Feather file", "convert it to Parquet"),
        (rb"\xff\xff\xff\xff....\x10\0\0\0", "an Arrow IPC stream", "convert it to Parquet"),
        (rb"Obj\x01", "an Avro file", "convert it to Parquet"),
        (rb"SQLite format 3\0", "an SQLite database", "convert it to Parquet"),
        (rb"\0\x01\0\0Standard (Jet|ACE) DB", "a Microsoft Access database", "export its images to files"),
        (rb"\x89HDF\r\n", "an HDF5 file", "convert it to Parquet"),
        (rb"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
        (rb"\s*(<!DOCTYPE html|<html|<head|<body)", "a web page (HTML)", "download the file again"),
        (rb"\s*<\?xml|\s*<Error>", "XML, such as a store's error response", "download the file again"),
        (rb"\s*[{\[]", "JSON", "convert it to Parquet"),
    )
)
_TEXT = re.compile(rb"[\t\r\n\x20-\x7e\x80-\xff]{16,}\Z")
_ZEROS = re.compile(rb"\0{64,}\Z")


def foreign(start: bytes, wanted: str) -> str | None:
    """Name the format of a file that is not `wanted`, and say what to do about it.

    Args:
        start: the first `sniff.ENOUGH` bytes of the file, or all of them.
        wanted: the expected format with its article, such as "a tar".

    Returns:
        Text for an error message; None if the format is unknown.
    """
    kind = kind_of_bytes(start)
    if kind in _KINDS and not _KINDS[kind].startswith(wanted):
        return f"{_KINDS[kind]}, not {wanted}: unpack it and give it the extension of its format"
    for pattern, what, advice in _FOREIGN:
        if pattern.match(start) and not what.startswith(wanted):
            return f"{what}, not {wanted}: {advice}"
    if _ZEROS.match(start):
        return f"zero bytes, not {wanted}, probably an unfinished copy: copy the file again"
    if _TEXT.match(start):
        return f"text, such as CSV, not {wanted}"
    return None

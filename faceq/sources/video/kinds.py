"""Name the format of a file in which FFmpeg finds no video, from its first bytes.

Images, tars and Parquet files with a video's name do not get here (`faceq.sources.sniff`).
"""

import re

SUPPORTED = "supported are MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV, WMV and Ogg"

# `.` matches any byte.
_OTHERS = (
    (rb"8BPS", "an image (Photoshop)"),
    (rb"ID3|\xff[\xfb\xf3\xf2\xfa]", "an audio file (MP3)"),
    (rb"\xff[\xf1\xf9]", "an audio file (AAC)"),
    (rb"fLaC", "an audio file (FLAC)"),
    (rb"RIFF....WAVE|RF64", "an audio file (WAV)"),
    (rb"#!AMR", "an audio file (AMR)"),
    (
        rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!",
        "a compressed file: unpack it",
    ),
    (rb"#EXTM3U|\[playlist\]|\s*<smil|ffconcat", "a playlist: name the videos themselves"),
    (rb"\s*(<!DOCTYPE html|<html|<head|<body)", "a web page (HTML), probably from a failed download"),
    (rb"\s*<\?xml|\s*<Error>", "XML, such as an error response of an object store"),
    (rb"\s*[{\[]\s*[\"{\[\]}\d-]", "JSON or other text"),
    (rb"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (rb"%PDF", "PDF"),
)

_VIDEOS = (
    (
        rb"....(ftyp|mdat|moov|wide)",
        "an MP4 or MOV file without its index (moov): it is cut off, or its writer was stopped",
    ),
    (rb"RIFF....AVI ", "an AVI file that is damaged or cut off in its header"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM file that is damaged or cut off in its header"),
    (rb"FLV\x01", "an FLV file that is damaged or cut off in its header"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMV (ASF) file that is damaged or cut off in its header"),
    (rb"OggS", "an Ogg file without a video, or cut off in its header"),
    (rb"\x47.{187}\x47|.{4}\x47.{191}\x47", "an MPEG transport stream without a video, or cut off"),
    (rb"\0\0\x01\xba", "an MPEG program stream without a video, or cut off"),
)

_UNSUPPORTED = (
    (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF"),
    (rb"\.RMF", "RealMedia"),
    (rb"YUV4MPEG2", "YUV4MPEG"),
    (rb"DKIF", "IVF"),
    (rb"\0\0\0?\x01[\x67\x27\x40\x42\x46\x09\xb3\xb0]", "a bare video stream without a container"),
)


def not_a_video(head: bytes) -> str:
    """Why a file cannot be opened as a video, as text for the row's `error`.

    Args:
        head: the first bytes of the file, at least 4 KiB or all.
    """
    if not head:
        return "the file is empty (0 bytes)"
    if not head.strip(b"\0"):
        return "not a video but zero bytes, probably an unfinished copy: copy the file again"
    if what := _first(_OTHERS, head):
        return f"not a video but {what}; {SUPPORTED}"
    if what := _first(_VIDEOS, head):
        return f"{what}: copy it again, or repair it with the program that made it"
    if what := _first(_UNSUPPORTED, head):
        return f"{what} is not supported: convert it; {SUPPORTED}"
    return f"not a video, or cut off in its header (first bytes: {head[:8].hex(' ')}); {SUPPORTED}"


def _first(kinds: tuple[tuple[bytes, str], ...], head: bytes) -> str:
    """The first format that matches; empty if none does."""
    return next((what for pattern, what in kinds if re.match(pattern, head, re.DOTALL | re.IGNORECASE)), "")

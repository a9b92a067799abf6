"""Detect the type of a file from its first bytes, because file names are often wrong."""

import re

from faceq.sources.compressed import compression_of, first_unpacked
from faceq.sources.kinds import Kind

ENOUGH = 512
"""Number of first bytes needed to detect a file's type: the length of a tar header. A compressed file needs
`compressed.FIRST_BYTES`."""

_PICTURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]"
    # A BMP states the length of its second header.
    rb"|BM............[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|P[1-6][ \t\r\n#]"
    rb"|....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1|avi[fs])"
    rb"|\0\0\0\x0c(?:jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a"
    # Camera raw of Canon, which is not decoded: its row says so.
    rb"|....ftypcrx ",
    re.DOTALL,
)
_VIDEOS = re.compile(
    # MP4, and old QuickTime files without `ftyp`
    rb"....(?:ftyp|moov|mdat)|\0\0..(?:wide|free|skip|pnot)"
    # Matroska and WebM; AVI; Flash; Windows Media; Ogg; MPEG's program and elementary streams
    rb"|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\x30\x26\xb2\x75\x8e\x66\xcf\x11|OggS|\0\0\x01[\xba\xb3]"
    # MPEG transport stream: packets of 188 bytes, or of 192 bytes with a timestamp in front
    rb"|(?:.{4})?G.{187}(?:.{4})?G.{187}(?:.{4})?G",
    re.DOTALL,
)
_FREQUENT = (b"\xff\xd8\xff", b"\x89PNG")
_KINDS: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"PAR[1E]"), "parquet"),
    (_PICTURES, "picture"),
    (_VIDEOS, "video"),
    # The magic number of a record, and a length with the flag of its beginning.
    (re.compile(rb"\x0a\x23\xd7\xce...[\0-\x3f]", re.DOTALL), "record"),
    # The magic number and the version in the first page.
    (re.compile(rb".{16}\xde\xc0\xef\xbe\x01\0\0\0", re.DOTALL), "lmdb"),
)
_TAR_MAGIC = slice(257, 262)


def kind_of_bytes(head: bytes) -> Kind | None:
    """The kind of a file, from its first ENOUGH bytes or more (or all of them); None if it is unknown."""
    # Check for a tar first: it begins with the name of its first member, which can be anything.
    if head[_TAR_MAGIC] == b"ustar":
        return "tar"
    if compression := compression_of(head):
        return "tar" if first_unpacked(head, compression, ENOUGH)[_TAR_MAGIC] == b"ustar" else None
    return next((kind for pattern, kind in _KINDS if pattern.match(head)), None)


def is_video(head: bytes) -> bool:
    """Whether `kind_of_bytes` is "video". It takes next to no time for a JPEG or PNG."""
    return not head.startswith(_FREQUENT) and bool(_VIDEOS.match(head)) and kind_of_bytes(head) == "video"

"""JPEG: parse a file's markers, and detect missing pixels.

libjpeg fills missing pixels with grey and only warns, and Pillow drops the warning. Therefore the decoder
gets the image data first and the end marker later: it finishes a complete image before the end marker, and an
incomplete one only with it.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from faceq.errors import UnreadableError

MAGIC = b"\xff\xd8\xff"

_EOI = b"\xff\xd9"
_AFTER_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Matches the marker after a scan's data. Inside the data, 0xFF is followed by 0 or is a restart marker."""

_FILLER = b"\xff\x00" * 8
"""Bits that are not a valid Huffman code; as many as the decoder reads ahead."""

_OTHER_DATA = b"".join(b"\x5a\x93\x2c\x67\xb1\x0e\xd4\x78" * 8 + bytes((0xFF, 0xD0 + i)) for i in range(8))
"""Arbitrary data with all restart markers, to see whether the decoder takes pixels from it."""

_PROGRESSIVE, _LOSSLESS, _JPEG_LS = 0xC2, 0xC3, 0xF7
_ARITHMETIC = (0xC9, 0xCA)
_RARE = (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE, _LOSSLESS, *_ARITHMETIC, *_RARE, _JPEG_LS)
_SOS, _DRI, _END, _FIRST_EXTRA = 0xDA, 0xDD, 0xD9, 0xE0
_NEEDED = (b"JFIF\0", b"Adobe", b"ICC_PROFILE\0")
MAX_EXTRAS = 512
"""Maximum number of segments without pixels that Pillow gets. A large colour profile, the most frequent
reason for many segments, has up to 255."""

_ALONE = (0x01, *range(0xD0, 0xDA))
"""Markers without a length field."""


@dataclass(frozen=True)
class Layout:
    """The structure of a JPEG according to its markers.

    process: the start-of-frame marker, which determines the coding. bits: bits per sample. components:
    component ids. restarts: whether restart markers divide the data. scans: the header of each scan
    (components, spectral selection, approximation). start, end: offsets where the first scan starts and where
    the last scan's data end. extras: number of segments before the first scan that contain no pixels, such as
    EXIF.
    """

    process: int
    bits: int
    components: bytes
    restarts: bool
    scans: list[bytes]
    start: int
    end: int
    extras: int


def layout(data: bytes, most_scans: int) -> Layout | None:
    """Parse the first image in a file. Returns None if it has no scan; then the decoder reports the error.

    Raises:
        UnreadableError: it has more than `most_scans` scans.
    """
    frame, restarts, scans, start, extras = None, False, list[bytes](), 0, 0
    end = len(data)
    for marker, at, length in _segments(data):
        if marker in _FRAMES and length >= 11:
            frame = marker, data[at + 4], data[at + 10 : at + 2 + length : 3]
        elif marker == _DRI:
            restarts = restarts or data[at + 4 : at + 6] != b"\0\0"
        elif marker >= _FIRST_EXTRA:
            extras += not scans
        elif marker == _SOS:
            start = start or at
            scans.append(data[at + 4 : at + 2 + length])
            if len(scans) > most_scans:
                raise UnreadableError(
                    f"more scans than limits.jpeg_scans={most_scans}: "
                    "save the JPEG again, without progressive coding, or raise the limit"
                )
        elif marker == _END:
            end = at
    return Layout(*frame, restarts, scans, start, end, extras) if frame and scans else None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the code, offset and length (0 if it has none) of each marker, up to the first end of image."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker in (0, 0xFF):
            at += 1
        elif marker in _ALONE:
            yield marker, at, 0
            if marker == _END:
                return
            at += 2
        else:
            length = int.from_bytes(data[at + 2 : at + 4])
            yield marker, at, length
            at += 2 + length
            if marker == _SOS:
                after = _AFTER_DATA.search(data, at)
                at = after.start() if after else len(data)


def without_extras(data: bytes, found: Layout) -> bytes:
    """The file without the segments before the first scan that do not affect the pixels.

    Pillow takes quadratic time if there are many. The first EXIF segment, colour profiles and the segments
    that determine the colour space are kept.
    """
    parts, exif = [data[:2]], False
    for marker, at, length in _segments(data):
        if at >= found.start:
            break
        content = data[at : at + 2 + length]
        is_exif = content[4:10] == b"Exif\0\0"
        if marker < _FIRST_EXTRA or content[4:].startswith(_NEEDED) or (is_exif and not exif):
            parts.append(content)
        exif = exif or is_exif
    return b"".join((*parts, memoryview(data)[found.start :]))


def unsupported(found: Layout) -> str | None:
    """The name of the kind of JPEG if it cannot be decoded, else None."""
    if found.process == _JPEG_LS:
        return "JPEG-LS"
    if found.process == _LOSSLESS:
        return "lossless JPEG (programs disagree on whether its colours are RGB or YCbCr)"
    if found.process in _RARE:
        return "hierarchical JPEG"
    if found.bits != 8:
        return f"JPEG with {found.bits} bits per sample"
    if len(found.components) not in (1, 3, 4):
        return f"JPEG with {len(found.components)} colour components"
    return None


def load(picture: ImageFile, data: bytes, found: Layout) -> bool:
    """Decode an open JPEG. Returns whether all of its pixels were there.

    An image without an end marker, and a progressive one with restart markers, is decoded twice. If it is cut
    off within the last 20 bytes of its data, it is mistaken for complete in 1 of 100 cases. All other images
    are decoded once. They are mistaken for complete if at most their last two 8x8 blocks are missing or, if
    they are progressive, at most the last refinement of the blocks that the last 64 bits refine.

    Raises:
        OSError: the data are damaged.
    """
    ended = data.startswith(_EOI, found.end)
    if found.process in _ARITHMETIC:
        picture.decodermaxblock = len(data)  # this decoder needs all data in one call, or it may lose the end
        picture.load()
        return ended
    end = found.end
    while data[end - 1] == 0xFF:  # half a marker, or the padding before one
        end -= 1
    body = memoryview(data)[:end]
    several = found.process == _PROGRESSIVE or len(found.scans) > 1
    if several and not _all_scans(found):
        return False
    if not _decode(picture, body, several):
        return False
    if ended and not (several and found.restarts):
        return True
    return _same_whatever_follows(picture, body)


def _decode(picture: ImageFile, body: memoryview, several: bool) -> bool:
    """Whether the data up to the end of the last scan are enough to decode all pixels.

    This replaces Pillow's own loop, which does not expose how much data the decoder left over.
    """
    name, box, _, args = picture.tile[0]
    picture.load_prepare()
    decoder = Image._getdecoder(picture.mode, name, args, picture.decoderconfig)
    try:
        decoder.setimage(picture.im, box)
        content = b"".join((body, _FILLER))
        used, error = decoder.decode(content)
        if used >= 0:
            # The pixels of a single scan are decoded as they are read; those of several scans only after the
            # end marker.
            if not several or used < len(content):
                return False
            used, error = decoder.decode(_EOI)
    finally:
        decoder.cleanup()
    picture.tile = []
    if error < 0:
        raise OSError("broken data stream")
    return used < 0


def _same_whatever_follows(picture: ImageFile, body: memoryview) -> bool:
    """Whether the pixels stay the same if arbitrary data follow. Then none of them is missing."""
    with Image.open(io.BytesIO(b"".join((body, _OTHER_DATA, _EOI))), formats=("JPEG",)) as other:
        try:
            return ImageChops.difference(picture, other).getbbox() is None
        except OSError:
            return False  # the decoder tried to read pixels from the arbitrary data and failed


def _all_scans(found: Layout) -> bool:
    """Whether the scans contain every coefficient of every component, down to the last bit."""
    lowest = {component: bytearray(b"\xff" * 64) for component in found.components}
    for scan in found.scans:
        count = scan[0] if scan else 0
        if len(scan) < 2 * count + 4:
            continue
        first, last, bits = scan[2 * count + 1 : 2 * count + 4]
        if found.process != _PROGRESSIVE:
            first, last, bits = 0, 63, 0
        for component in scan[1 : 2 * count + 1 : 2]:
            if component in lowest and first <= last < 64:
                lowest[component][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
    return not any(any(bits) for bits in lowest.values())

"""HEIF files: recognise AVIF and HEIC, and decode HEIC by pillow-heif, an optional package."""

import io
import threading
from collections.abc import Callable

import numpy as np
from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.boxes import children
from faceq.sources.decode.file_types import MISSING_PACKAGE, damaged

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF = {b"mif1", b"msf1"}
"""Brands of the container, whatever the coding."""

_PQ, _HLG = 16, 18
"""Transfer characteristics of high dynamic range. Source: ITU-T H.273, table 3."""

_THREADS = threading.Lock()


def is_avif(data: bytes) -> bool:
    return bool(_AVIF & _brands(data)) and data[8:12] not in _HEIC


def is_heic(data: bytes) -> bool:
    return bool((_HEIC | _HEIF) & _brands(data)) and not is_avif(data)


def _brands(data: bytes) -> set[bytes]:
    """The brands of a file, in its first box; empty if this is another box."""
    for kind, start, end in children(data[:1024], 0, min(len(data), 1024)):
        if kind == b"ftyp":
            return {data[start : start + 4], *(data[at : at + 4] for at in range(start + 8, end, 4))}
        break
    return set()


def check_range(data: bytes) -> None:
    """Raises UnreadableError for an image of high dynamic range without a colour profile: as sRGB it would be
    far too dark or pale."""
    nclx = None
    for kind, content in _primary_properties(data):
        if kind == b"colr" and content[:4] in (b"prof", b"rICC"):
            return
        if kind == b"colr" and content[:4] == b"nclx":
            nclx = content
    if nclx is not None and int.from_bytes(nclx[6:8], "big") in (_PQ, _HLG):
        raise UnreadableError(
            "an image of high dynamic range (PQ or HLG) is not supported: convert it to standard dynamic "
            "range, for example to JPEG"
        )


def _primary_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of the boxes that describe the primary image; none if they are damaged or missing.

    Source: ISO/IEC 23008-12 and 14496-12, boxes `pitm`, `ipco` and `ipma`.
    """
    meta = next((place for kind, *place in children(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return []
    primary, properties, owned = None, list[tuple[bytes, bytes]](), list[bytes]()
    for kind, start, end in children(data, meta[0] + 4, meta[1]):
        if kind == b"pitm":
            primary = int.from_bytes(data[start + 4 : end][: 4 if data[start] else 2], "big")
        elif kind == b"iprp":
            for inner, first, last in children(data, start, end):
                if inner == b"ipco":
                    properties = [(name, data[at:to]) for name, at, to in children(data, first, last)]
                elif inner == b"ipma":
                    owned.append(data[first:last])
    indices = [index for box in owned for item, index in _associations(box) if item == primary]
    return [properties[index - 1] for index in indices if 0 < index <= len(properties)]


def _associations(box: bytes) -> list[tuple[int, int]]:
    """The pairs of an item's number and the index of a property, from 1, in an `ipma` box."""
    wide_item, wide_index = 4 if box[:1] != b"\0" else 2, 2 if box[3:4] and box[3] & 1 else 1
    found, at = list[tuple[int, int]](), 8
    while at + wide_item < len(box):
        item, count = int.from_bytes(box[at : at + wide_item], "big"), box[at + wide_item]
        at += wide_item + 1
        for _ in range(count):
            index = int.from_bytes(box[at : at + wide_index], "big")
            found.append((item, index & (0x7FFF if wide_index == 2 else 0x7F)))
            at += wide_index
    return found


def read(data: bytes, check_pixels: Callable[[int, int], None]) -> Image.Image:
    """Decode the primary image of a HEIC file, upright: libheif applies its rotation and mirroring.

    Args:
        data: the file.
        check_pixels: called with width and height before the pixels are decoded.

    Raises:
        UnreadableError: pillow-heif is not installed, or the image is of high dynamic range.
        Exception: the file is damaged, or of a coding other than HEVC.
    """
    try:
        import pillow_heif  # noqa: PLC0415 - an optional package
    except ImportError:
        raise UnreadableError(MISSING_PACKAGE.format("HEIC", "pillow-heif")) from None
    check_range(data)
    # A task may own only part of a CPU. The number of threads is a global option of the package.
    with _THREADS:
        threads = pillow_heif.options.DECODE_THREADS
        pillow_heif.options.DECODE_THREADS = 0
        try:
            file = pillow_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=False)
        finally:
            pillow_heif.options.DECODE_THREADS = threads
    if not len(file):
        raise UnreadableError(damaged("it contains no image"))
    image = file[file.primary_index]
    check_pixels(*image.size)
    content = image.data
    width, height = image.size  # of the pixels; the file may have stated others
    check_pixels(width, height)
    mode, _, wide = image.mode.partition(";")
    mode = "L" if mode == "I" else mode
    samples = np.frombuffer(content, "<u2" if wide else np.uint8)
    if wide:
        samples = (samples >> 8).astype(np.uint8)  # pillow-heif scales samples to 16 bits
    picture = Image.frombuffer(mode, (width, height), samples, "raw", mode, 0, 1)
    if profile := image.info.get("icc_profile"):
        picture.info["icc_profile"] = profile
    return picture

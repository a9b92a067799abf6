"""A JPEG is read if it has all of its pixels, whatever follows them. Otherwise it is unreadable, with the
reason."""

import base64
import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from faceq.config import Limits
from faceq.sources.decode.image import UnreadableError, decode

LIMIT = 10_000_000
EOI = b"\xff\xd9"
KINDS = {
    "baseline": {},
    "subsampled": {"subsampling": 2},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 3},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
}


def encoded(picture: Image.Image, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    picture.convert(mode).save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


@pytest.fixture(scope="module")
def photo(astronaut) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(astronaut[60:163, 160:297]))


def last_scan(data: bytes) -> int:
    return data.rindex(b"\xff\xda")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_picture_is_read_whatever_its_end_looks_like(photo, kind):
    data = encoded(photo, **KINDS[kind])
    whole = decode(data, LIMIT)
    thumbnail = encoded(photo.resize((32, 32)))
    for end in (b"", b"\xff", EOI + b"trailing", EOI + thumbnail, EOI + EOI, b"\xff\xff\xd9"):
        assert np.array_equal(decode(data[:-2] + end, LIMIT), whole), end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"", EOI, b"\xff", EOI + b"trailing" + EOI])
def test_an_image_with_missing_parts_is_unreadable(photo, kind, end):
    data = encoded(photo, **KINDS[kind])
    start = last_scan(data) + 14
    for share in (0.0, 0.2, 0.5, 0.8, 0.9):
        cut = data[: start + int((len(data) - 2 - start) * share)]
        with pytest.raises(UnreadableError, match=r"damaged or cut off .*: copy or export it again"):
            decode(cut + end, LIMIT)


@pytest.mark.parametrize("missing", range(1, 9))
def test_a_progressive_picture_without_its_last_scans_is_unreadable(photo, missing):
    data = encoded(photo, progressive=True)
    at = len(data)
    for _ in range(missing):
        at = data.rindex(b"\xff\xda", 0, at)
    at = data.rindex(b"\xff\xc4", 0, at) if data.rfind(b"\xff\xc4", at - 60, at) > 0 else at
    with pytest.raises(UnreadableError, match="some of its pixels are missing"):
        decode(data[:at] + EOI, LIMIT)


def test_an_image_with_one_scan_per_colour_needs_all_scans(photo):
    """A sequential, non-interleaved image has three scans. PyAV and Pillow cannot write such files, so the
    test removes two scans."""
    data = bytearray(encoded(photo))
    at = last_scan(bytes(data))
    header = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    with pytest.raises(UnreadableError, match="some of its pixels are missing"):
        decode(bytes(data[:at]) + header + bytes(data[at + 14 :]), LIMIT)


def test_odd_sizes_never_count_as_truncated(astronaut):
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 70, 2)
        picture = Image.fromarray(np.ascontiguousarray(astronaut[100 : 100 + height, 150 : 150 + width]))
        options = {
            "quality": int(rng.integers(5, 101)),
            "progressive": bool(rng.integers(2)),
            "subsampling": int(rng.integers(3)),
            "optimize": bool(rng.integers(2)),
            "restart_marker_blocks": int(rng.integers(3)),
        }
        data = encoded(picture, **options)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(decode(data, LIMIT), expected), options
        assert np.array_equal(decode(data[:-2], LIMIT), expected), options


def test_a_second_picture_behind_the_first_does_not_hide_what_is_missing(photo):
    out = io.BytesIO()
    photo.save(out, "MPO", save_all=True, append_images=[photo.rotate(180)], quality=90)
    data = out.getvalue()
    assert np.abs(decode(data, LIMIT).astype(int) - np.asarray(photo)).mean() < 4
    first_end = data.index(EOI, data.index(b"\xff\xda"))
    assert np.array_equal(decode(data[: first_end + 500], LIMIT), decode(data, LIMIT))
    with pytest.raises(UnreadableError, match="missing"):
        decode(data[: first_end - 800] + data[first_end:], LIMIT)


ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBT/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDR1k4VXdl57BVat5SOrsz/AF6LPX5I"
    "APoN/9k="
)
"""A gradient of 16x16 pixels, written by `jpegtran -arithmetic`."""


def test_arithmetic_coding_is_read():
    ramp = np.indices((16, 16)).sum(0) * 8
    expected = np.stack([ramp, 255 - ramp, ramp // 2], -1)
    assert np.abs(decode(ARITHMETIC, LIMIT).astype(int) - expected).max() < 16
    with pytest.raises(UnreadableError, match="damaged or cut off"):
        decode(ARITHMETIC[:-2], LIMIT)


def by_ffmpeg(picture: Image.Image, codec: str, pixels: str) -> bytes:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = picture.size
    encoder.pix_fmt, encoder.time_base, encoder.options = pixels, Fraction(1, 25), {"strict": "unofficial"}
    frame = av.VideoFrame.from_ndarray(np.asarray(picture), "rgb24").reformat(format=pixels)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def unsupported(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    data = encoded(photo)
    frame = data.index(b"\xff\xc0")
    return {
        "jpeg-ls": (by_ffmpeg(photo, "jpegls", "rgb24"), "JPEG-LS"),
        "lossless": (by_ffmpeg(photo, "ljpeg", "yuvj444p"), r"lossless JPEG"),
        "12 bits": (data[: frame + 4] + b"\x0c" + data[frame + 5 :], "JPEG with 12 bits per sample"),
        "hierarchical": (data[:frame] + b"\xff\xc5" + data[frame + 2 :], "hierarchical JPEG"),
    }


@pytest.mark.parametrize("kind", ["jpeg-ls", "lossless", "12 bits", "hierarchical"])
def test_kinds_that_are_not_read_are_named(photo, kind):
    data, words = unsupported(photo)[kind]
    with pytest.raises(UnreadableError, match=f"{words}.* is not supported: convert it"):
        decode(data, LIMIT)


def test_thousands_of_scans_are_refused_by_the_name_of_the_limit(photo):
    data = encoded(photo, progressive=True)
    at = last_scan(data)
    scan = data[at : at + 10]
    with pytest.raises(UnreadableError, match=r"limits\.jpeg_scans=100: save the JPEG again"):
        decode(data[:-2] + scan * 5000 + EOI, LIMIT)
    sequential = encoded(photo)
    at = last_scan(sequential)
    with pytest.raises(UnreadableError, match=r"limits\.jpeg_scans=100"):
        decode(sequential[:at] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 5000 + sequential[at:], LIMIT)
    assert decode(data, LIMIT, Limits(jpeg_scans=10)).shape == (103, 137, 3)
    with pytest.raises(UnreadableError, match=r"limits\.jpeg_scans=9"):
        decode(data, LIMIT, Limits(jpeg_scans=9))


def test_the_scans_of_a_thumbnail_or_of_a_second_picture_do_not_count(photo):
    data = encoded(photo, progressive=True)
    comment = b"\xff\xfe" + (2 + 4000).to_bytes(2) + b"\xff\xda" * 2000
    padded = data[:2] + comment + data[2:] + data * 20
    assert np.array_equal(decode(padded, LIMIT), decode(data, LIMIT))


def test_thousands_of_segments_are_skipped(photo):
    """Pillow copies all EXIF data again for each EXIF segment. 1,500 segments take more than a minute."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo, exif=exif)
    segment = b"\xff\xe1" + (65535).to_bytes(2) + b"Exif\0\0" + bytes(65527)
    at = data.index(b"\xff\xdb")
    assert np.array_equal(decode(data[:at] + segment * 1000 + data[at:], LIMIT), decode(data, LIMIT))


def test_pixels_are_taken_as_square(photo):
    """Browsers and image libraries do not stretch images by JFIF's density. Video players do."""
    plain = encoded(photo)
    for unit in (0, 1, 2):
        density = bytes((unit,)) + (2).to_bytes(2) + (1).to_bytes(2)
        assert np.array_equal(decode(plain[:13] + density + plain[18:], LIMIT), decode(plain, LIMIT))

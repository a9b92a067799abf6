"""PNG: damage outside the pixels does not make an image unreadable, and bit depth and transparency are
correct."""

import resource
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import profiles
import pytest
from PIL import Image

from faceq.sources.decode.image import UnreadableError, decode

LIMIT = 10_000_000
MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def damaged(part: bytes) -> bytes:
    """The chunk with a wrong checksum."""
    return part[:-4] + bytes(byte ^ 0x55 for byte in part[-4:])


def png(pixels: np.ndarray, colour: int, depth: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """Write a PNG from rows (H, W, channels) of uint8 or uint16, or from packed rows (H, bytes)."""
    height, width = pixels.shape[:2]
    if depth < 8:
        width = width * 8 // depth
    rows = pixels.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return MAGIC + head + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def photo(astronaut) -> np.ndarray:
    return np.ascontiguousarray(astronaut[60:140, 160:260])


LONG = zlib.compress(bytes(3 << 20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"k\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"k\0\x01\0\0\0" + LONG),
    "iTXt, plain": chunk(b"iTXt", b"k\0\0\0\0\0" + bytes(70 << 20)),
    "tEXt": chunk(b"tEXt", b"k\0" + bytes(70 << 20)),
    "many": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20))) * 70,
    "iCCP": chunk(b"iCCP", b"k\0\0" + LONG),
}
CHUNKS = {
    "gAMA": (0).to_bytes(4),
    "cHRM": bytes(32),
    "sRGB": b"\0",
    "pHYs": bytes(9),
    "tIME": bytes(7),
    "tEXt": b"k\0v",
    "zTXt": b"k\0\0" + zlib.compress(b"v"),
    "iTXt": b"k\0\0\0\0\0v",
    "iCCP": b"k\0\0" + zlib.compress(profiles.rgb(profiles.ADOBE_RGB, 2.2)),
    "tRNS": bytes(6),
    "bKGD": bytes(6),
    "eXIf": b"II*\0\x08\0\0\0\0\0",
    "prVt": b"private",
    "acTL": bytes(8),
}


@pytest.mark.parametrize("name", TEXTS)
def test_long_texts_and_profiles_are_skipped(photo, name):
    for place in ("before", "after"):
        assert np.array_equal(decode(png(photo, 2, 8, **{place: TEXTS[name]}), LIMIT), photo)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_damaged_chunk_outside_the_pixels_is_skipped(photo, name):
    part = damaged(chunk(name.encode(), CHUNKS[name]))
    for place in ("before", "after"):
        assert np.array_equal(decode(png(photo, 2, 8, **{place: part}), LIMIT), photo)
        assert np.array_equal(decode(png(photo, 2, 8, **{place: part * 2}), LIMIT), photo)


@pytest.mark.parametrize("name", ["gAMA", "cHRM", "sRGB", "pHYs", "tRNS", "acTL", "iCCP"])
def test_a_chunk_that_is_too_short_is_skipped(photo, name):
    assert np.array_equal(decode(png(photo, 2, 8, before=chunk(name.encode(), b"")), LIMIT), photo)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_a_damaged_chunk_of_the_pixels_makes_it_unreadable(photo, kind):
    if kind == b"PLTE":
        data = png(photo[..., :1], 3, 8, before=damaged(chunk(kind, bytes(range(256)) * 3)))
    else:
        data = png(photo, 2, 8)
        data = data[:8] + damaged(data[8:33]) + data[33:]
    with pytest.raises(UnreadableError, match="damaged or cut off"):
        decode(data, LIMIT)


def test_important_chunks_are_kept_if_another_chunk_is_damaged(photo):
    """Transparency, orientation and the profile are kept, even if the profile is above Pillow's limit."""
    bad = damaged(chunk(b"tEXt", b"k\0v"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = chunk(b"eXIf", exif.tobytes()[6:])
    assert np.array_equal(decode(png(photo, 2, 8, before=bad + turned), LIMIT), np.rot90(photo, -1))
    xmp = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    assert np.array_equal(decode(png(photo, 2, 8, before=bad + xmp), LIMIT), np.rot90(photo, -1))
    clear = chunk(b"tRNS", struct.pack(">3H", *photo[0, 0]))
    assert decode(png(photo, 2, 8, before=bad + clear), LIMIT)[0, 0].tolist() == [255] * 3
    profile = profiles.rgb(profiles.ADOBE_RGB, 2.2)
    small = png(photo, 2, 8, before=chunk(b"iCCP", b"k\0\0" + zlib.compress(profile)))
    large = png(photo, 2, 8, before=chunk(b"iCCP", b"k\0\0" + zlib.compress(profile + bytes(2 << 20))))
    converted = decode(small, LIMIT)
    assert not np.array_equal(converted, photo)
    assert np.array_equal(decode(large, LIMIT), converted)
    assert np.array_equal(decode(small[:33] + bad + small[33:], LIMIT), converted)


def test_the_whole_image_is_read_wherever_the_file_ends_after_it(photo):
    after = chunk(b"tEXt", b"k\0" + b"v" * 50) + chunk(b"tIME", bytes(7))
    data = png(photo, 2, 8, after=after)
    pixels_end = data.index(b"tEXt") - 8
    for end in (*range(pixels_end, pixels_end + 70, 7), len(data) - 1):
        assert np.array_equal(decode(data[:end], LIMIT), photo), end
    for end in (pixels_end - 40, pixels_end - 2000, 60):
        with pytest.raises(UnreadableError, match="damaged or cut off"):
            decode(data[:end], LIMIT)


def test_xcodes_variant_of_png_is_named(photo):
    data = png(photo, 2, 8)
    with pytest.raises(UnreadableError, match=r"CgBI.*pngcrush"):
        decode(MAGIC + chunk(b"CgBI", bytes(4)) + data[8:], LIMIT)


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_values_keep_their_upper_eight_bits(colour, channels):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = np.stack([ramp, ramp[::-1], ramp.T, ramp][:channels], -1)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    found = decode(png(pixels, colour, 16), LIMIT)
    expected = pixels[..., :3] >> 8 if channels > 2 else np.repeat(pixels[..., :1] >> 8, 3, -1)
    assert np.array_equal(found, expected)


def test_16_bits_as_opencv_writes_and_reads_them():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for pixels in (ramp, np.stack([ramp, ramp[::-1], ramp.T], -1)):
        data = cv2.imencode(".png", pixels)[1]
        expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.array_equal(decode(data.tobytes(), LIMIT), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_one_of_the_files_own_levels(depth):
    top = (1 << depth) - 1
    if depth < 8:
        row = np.array([[int(f"{0:0{depth}b}{top:0{depth}b}" * (8 // depth // 2), 2)]], np.uint8)
    else:
        row = np.array([[[0], [top]]], np.uint16)
    for clear, expected in ((0, [255, 255]), (top, [0, 255])):
        data = png(row, 0, depth, before=chunk(b"tRNS", struct.pack(">H", clear)))
        assert decode(data, LIMIT)[0, :2, 0].tolist() == expected
    if depth > 1:
        # A transparent level that does not occur in the image has no effect.
        data = png(row, 0, depth, before=chunk(b"tRNS", struct.pack(">H", 1)))
        assert decode(data, LIMIT)[0, :2, 0].tolist() == [0, 255]


def test_the_transparent_colour_of_16_bits():
    pixels = np.array([[[1000, 2000, 3000], [60000, 50000, 40000]]], np.uint16)
    data = png(pixels, 2, 16, before=chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    assert decode(data, LIMIT)[0].tolist() == [[255] * 3, [60000 >> 8, 50000 >> 8, 40000 >> 8]]


def test_pixels_are_taken_as_square(photo):
    stretched = chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0))
    assert np.array_equal(decode(png(photo, 2, 8, before=stretched), LIMIT), photo)


# --- memory ---

LARGE = (6000, 5000)
PEAK = """
import resource, sys
from faceq.sources.decode.image import decode
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode(data, 100_000_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / pixels.nbytes)
"""


def peak(data: bytes) -> float:
    """Peak memory of decoding, relative to the size of the RGB result."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK]
    return float(subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize("colour, depth", [(0, 16), (2, 16), (4, 16), (6, 16), (6, 8), (3, 8), (0, 1)])
def test_a_large_picture_takes_a_small_multiple_of_its_own_memory(colour, depth):
    """An image of 30 megapixels. Relative to the result, Pillow's pixels take 4/3, the result 1, and bands of
    rows the rest."""
    height, width = LARGE
    rows = np.zeros((1, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * width * depth // 8), np.uint8)
    packing = zlib.compressobj(1)
    data = b"".join(packing.compress(b"\0" + rows.tobytes()) for _ in range(height)) + packing.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(range(256))) if colour == 3 else b""
    assert peak(MAGIC + head + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")) < 3.5


def test_a_text_that_unpacks_to_gigabytes_takes_no_memory(photo):
    packing = zlib.compressobj(9)
    bomb = b"".join(packing.compress(bytes(1 << 20)) for _ in range(256)) + packing.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, head in {b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0", b"iCCP": b"k\0\0"}.items():
        assert np.array_equal(decode(png(photo, 2, 8, before=chunk(kind, head + bomb)), LIMIT), photo)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 << 20

"""TIFF of all depths and kinds: correct levels, or an error with the reason, but never wrong pixels."""

import io
import itertools
import re
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from faceq.config import Limits
from faceq.sources.decode.image import UnreadableError, decode

LIMIT = 10_000_000
UNSUPPORTED = r"^this kind of (Big)?TIFF(, big-endian)? is not supported \(.*\): convert it to 8-bit RGB"
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16  # 0 to 65520


def written(pixels: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def levels(pixels: np.ndarray) -> np.ndarray:
    """The values in 8 bits: their upper eight bits."""
    return (pixels >> (pixels.dtype.itemsize * 8 - 8)).astype(np.uint8)


def at_depth(dtype: str) -> np.ndarray:
    bits = np.dtype(dtype).itemsize * 8
    return (RAMP.astype(np.uint64) << 48 >> (64 - bits)).astype(dtype)


GREY = list(
    itertools.product(
        *(["<", ">"], ["uint8", "uint16", "uint32"], ["minisblack", "miniswhite"]),
        *([None, "zlib"], [None, (16, 32)], [False, True]),
    )
)
REFUSED = {(">", "uint16", "miniswhite"), (">", "uint32", "minisblack")} | {
    (order, "uint32", "miniswhite") for order in "<>"
}
"""Kinds that Pillow does not support."""


@pytest.mark.parametrize("order, dtype, zero, compression, tile, big", GREY)
def test_grey_is_scaled_by_its_bits_and_white_is_white(order, dtype, zero, compression, tile, big):
    grey = at_depth(dtype)
    options = {"byteorder": order, "photometric": zero, "compression": compression, "tile": tile}
    data = written(grey, bigtiff=big, **options)
    if (order, dtype, zero) in REFUSED or (big and order == ">"):
        with pytest.raises(UnreadableError, match=UNSUPPORTED):
            decode(data, LIMIT)
        return
    found = decode(data, LIMIT)
    expected = levels(grey if zero == "minisblack" else np.iinfo(dtype).max - grey)
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


COLOURS = list(
    itertools.product(
        ["<", ">"],
        ["uint8", "uint16"],
        [None, "zlib"],
        ["contig", "separate"],
        ["RGB", "RGBA", "RGBa", "RGBX", "CMYK"],
    )
)


@pytest.mark.parametrize("order, dtype, compression, planes, mode", COLOURS)
def test_colours_of_8_and_16_bits(order, dtype, compression, planes, mode):
    colours = np.stack([at_depth(dtype), at_depth(dtype)[::-1], at_depth(dtype).T], -1)
    full = np.iinfo(dtype).max
    kind = {"RGBA": "unassalpha", "RGBa": "assocalpha", "RGBX": "unspecified"}.get(mode)
    fourth = np.where(RAMP < 30000, full // 2 + 1, full).astype(dtype)
    if mode == "RGBX":
        fourth[:] = full // 3
    stored = colours.copy()
    if mode == "RGBa":
        stored = (colours.astype(np.float64) * fourth[..., None] / full).astype(dtype)
    if mode != "RGB":
        stored = np.concatenate([stored, fourth[..., None]], axis=-1)
    if mode == "CMYK":
        stored[..., 3] = 0
    data = written(
        stored if planes == "contig" else np.ascontiguousarray(stored.transpose(2, 0, 1)),
        byteorder=order,
        compression=compression,
        planarconfig=planes,
        photometric="separated" if mode == "CMYK" else "rgb",
        extrasamples=[kind] if kind else None,
    )
    try:
        found = decode(data, LIMIT).astype(int)
    except UnreadableError as error:
        assert re.search(UNSUPPORTED, str(error)), error
        assert planes == "separate" and compression is None
        assert mode in ("RGBa", "RGBX") or (mode, dtype) == ("CMYK", "uint16")
        return
    expected = levels(colours).astype(int)
    if mode in ("RGBA", "RGBa"):
        share = levels(fourth)[..., None] / 255
        expected = expected * share + 255 * (1 - share)
    if mode == "CMYK":
        expected = 255 - expected
    assert np.abs(found - expected).max() <= (3 if mode == "RGBa" else 1 if mode == "RGBA" else 0)


def encoded(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, "TIFF", **options)
    return out.getvalue()


def by_hand(tags: dict[int, tuple[int, ...]], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF with one strip. These tags, of type LONG, replace those of 8-bit grey."""
    tags = {256: (4,), 257: (4,), 258: (8,), 259: (1,), 262: (1,), 273: (8,), 277: (1,), 278: (4,)} | tags
    tags = {**tags, 279: (len(pixels),)}
    at = 8 + len(pixels) + len(pixels) % 2
    extra_at = at + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        body = struct.pack(f"{order}{len(values)}I", *values)
        place = body if len(values) == 1 else struct.pack(order + "I", extra_at + len(extra))
        extra += b"" if len(values) == 1 else body
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    count = struct.pack(order + "H", len(tags))
    return head + pixels.ljust(at - 8, b"\0") + count + entries + bytes(4) + extra


def test_twelve_bits():
    ramp = np.arange(16, dtype=np.uint16).reshape(4, 4) * 273  # 0 to 4095
    bits = "".join(f"{level:012b}" for level in ramp.ravel())
    packed = int(bits, 2).to_bytes(24)
    found = decode(by_hand({258: (12,)}, packed), LIMIT)
    assert np.array_equal(found[..., 0], ramp >> 4) and found.max() == 255
    with pytest.raises(UnreadableError, match=r"grey, 1 x 12-bit, compression none"):
        decode(by_hand({258: (12,)}, packed, ">"), LIMIT)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("fill_order", [1, 2])
def test_few_bits(bits, white_is_zero, fill_order):
    row = np.arange(8) % (1 << bits)
    if white_is_zero:
        row = row[::-1]
    packed = int("".join(f"{level:0{bits}b}" for level in row), 2).to_bytes(bits)
    if fill_order == 2:
        packed = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed)
    tags = {256: (8,), 257: (1,), 258: (bits,), 262: (0 if white_is_zero else 1,), 266: (fill_order,)}
    found = decode(by_hand(tags, packed), LIMIT)[0, :, 0]
    top = (1 << bits) - 1
    assert found.tolist() == [(top - v if white_is_zero else v) * 255 // top for v in row]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float16", "float32", "float64", "uint64"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_without_a_fixed_range_are_refused_by_name(dtype, photometric, order):
    pixels = np.ones((8, 8, 3) if photometric == "rgb" else (8, 8), dtype)
    kind = {"i": "signed", "f": "floating-point", "u": "bit"}[np.dtype(dtype).kind]
    for compression in (None, "zlib"):
        data = written(pixels, photometric=photometric, byteorder=order, compression=compression)
        with pytest.raises(UnreadableError, match=UNSUPPORTED) as caught:
            decode(data, LIMIT)
        assert f"{np.dtype(dtype).itemsize * 8}-bit" in str(caught.value) and kind in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_samples_are_refused_by_name(dtype):
    with pytest.raises(UnreadableError, match="complex"):
        decode(written(np.ones((8, 8), dtype), photometric="minisblack"), LIMIT)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({259: (34712,)}, "compression JPEG 2000"),
        ({259: (34887,)}, "compression LERC"),
        ({259: (50002,)}, "compression JPEG XL"),
        ({259: (50001,)}, "compression WebP"),
        ({259: (12345,)}, "compression 12345"),
        ({262: (4,)}, "transparency mask"),
        ({262: (32803,)}, "colour filter array"),
        ({262: (9,), 277: (3,), 258: (8, 8, 8)}, "ICCLAB"),
        ({262: (2,), 277: (3,), 258: (5, 6, 5)}, r"RGB, 3 x 5/6-bit"),
        ({258: (10,)}, "1 x 10-bit"),
        ({262: (3,), 258: (16,), 320: (0,) * 768}, "palette, 1 x 16-bit"),
        ({262: (6,), 277: (3,), 258: (8, 8, 8), 530: (2, 2)}, "YCbCr, 3 x 8-bit"),
        ({50706: (1, 4, 0, 0)}, r"Camera raw \(DNG\) images are not supported"),
        ({254: (1,)}, "begins with a preview"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_kinds_that_are_not_read_are_named(tags, words, order):
    with pytest.raises(UnreadableError, match=words) as caught:
        decode(by_hand(tags, bytes(64), order), LIMIT)
    assert re.search("convert|develop|export", str(caught.value))


@pytest.mark.parametrize("scale", [1, 257])
def test_the_colours_of_a_palette_are_16_bit_or_as_some_write_them_8_bit(scale):
    channels = [(10, 200, 30, 255), (20, 100, 200, 0), (250, 60, 90, 128)]
    palette = tuple(c * scale for channel in channels for c in channel + (0,) * 252)
    found = decode(by_hand({262: (3,), 320: palette}, bytes(range(4)) * 4), LIMIT)
    assert found[0].tolist() == [list(colour) for colour in zip(*channels, strict=True)]


def test_colours_as_luma_and_chroma(astronaut):
    """Uncompressed without subsampling, and as in JPEG."""
    photo = Image.fromarray(astronaut)
    raw = encoded(photo.convert("YCbCr"))
    assert np.abs(decode(raw, LIMIT).astype(int) - astronaut).max() <= 4
    for options in ({}, {"quality": 95}):
        found = decode(encoded(photo, compression="jpeg", **options), LIMIT)
        assert np.abs(found.astype(int) - astronaut).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "I;16"])
def test_modes_that_pillow_writes_come_back(astronaut, mode):
    photo = Image.fromarray(astronaut[:64])
    stored = photo.convert("L").convert("I;16") if mode == "I;16" else photo.convert(mode)
    expected = np.asarray(photo.convert("L").point(lambda v: 0) if mode == "I;16" else stored.convert("RGB"))
    found = decode(encoded(stored), LIMIT)
    assert np.array_equal(found, expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, -1))


def test_grey_with_premultiplied_alpha():
    """Half-transparent mid-grey, stored premultiplied, over white."""
    pixels = bytes((50, 128)) * 16
    found = decode(by_hand({258: (8, 8), 277: (2,), 338: (1,)}, pixels), LIMIT)
    assert abs(int(found[0, 0, 0]) - (100 * 128 / 255 + 255 * 127 / 255)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(astronaut, orientation):
    undo = {
        **{1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]},
        **{5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 8: lambda a: np.rot90(a, -1)},
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    }[orientation]
    upright = astronaut[:100, :150]
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    for compression in (None, "tiff_lzw"):
        data = encoded(stored, tiffinfo={274: orientation}, compression=compression)
        assert np.array_equal(decode(data, LIMIT), upright)


def test_pixels_are_taken_as_square(astronaut):
    """A fax with 204x98 dots per inch is not stretched, as in image viewers, browsers and OpenCV."""
    fax = Image.fromarray(astronaut[:100]).convert("1")
    data = encoded(fax, compression="group3", resolution_unit="inch", x_resolution=204, y_resolution=98)
    assert decode(data, LIMIT).shape == (100, 512, 3)


def test_many_strips_are_refused_by_the_name_of_the_limit():
    count = 200_000
    data = by_hand({257: (count,), 278: (1,), 273: (8,) * count}, bytes(64))
    with pytest.raises(UnreadableError, match=r"limits\.source_memory=1000000: save the TIFF again"):
        decode(data, LIMIT, Limits(source_memory=1_000_000))


def test_a_directory_of_absurd_length_is_damaged():
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 40) + bytes(100)
    with pytest.raises(UnreadableError, match="damaged"):
        decode(data, LIMIT)

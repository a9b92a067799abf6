"""Bytes to pixels, for the kinds of picture that people have."""

import io

import numpy as np
import pytest
from PIL import Image

from faceq.decode import UnreadableError, decode

LIMIT = 10_000_000


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photo(astronaut) -> Image.Image:
    return Image.fromarray(astronaut)


def test_png_comes_back_as_it_was(photo, astronaut):
    assert np.array_equal(decode(encoded(photo, "PNG"), LIMIT), astronaut)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, 1)), (8, lambda a: np.rot90(a, -1))],
)
def test_exif_orientation_is_applied(astronaut, orientation, undo):
    stored = Image.fromarray(np.ascontiguousarray(undo(astronaut[:300])))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(stored, "PNG", exif=exif), LIMIT), astronaut[:300])


def test_grey_becomes_three_equal_channels(photo):
    pixels = decode(encoded(photo.convert("L"), "PNG"), LIMIT)
    assert pixels.shape == (512, 512, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_sixteen_bit_grey_is_scaled_not_clipped(photo):
    grey = np.asarray(photo.convert("L"))
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(decode(encoded(wide, "PNG"), LIMIT)[..., 0], grey)


def test_transparent_parts_are_white(photo):
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    assert decode(encoded(clear, "PNG"), LIMIT).min() == 255


def test_palette_with_a_transparent_colour():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((4, 4), 1)
    pixels = decode(encoded(picture, "PNG", transparency=0), LIMIT)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[4, 4].tolist() == [255, 0, 0]


def test_cmyk_jpeg_looks_like_the_rgb_it_came_from(photo, astronaut):
    pixels = decode(encoded(photo.convert("CMYK"), "JPEG", quality=95), LIMIT)
    assert np.abs(pixels.astype(int) - astronaut).mean() < 5


def test_first_frame_of_an_animation(photo):
    pages = [photo, Image.new("RGB", photo.size)]
    pixels = decode(encoded(pages[0], "WEBP", save_all=True, append_images=pages[1:], lossless=True), LIMIT)
    assert np.array_equal(pixels, np.asarray(photo))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_supported_format_opens(photo, kind):
    assert decode(encoded(photo, kind), LIMIT).shape == (512, 512, 3)


def bad_pictures(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(photo, "JPEG")
    png = encoded(photo, "PNG")
    return {
        "empty": (b"", "empty"),
        "text": (b"<html>404</html>", "not a picture"),
        "cut off": (jpeg[: len(jpeg) // 2], "cut off"),
        "header only": (jpeg[:20], "damaged or cut off"),
        "broken crc": (png[:2000] + bytes(50) + png[2050:], "damaged"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC and AVIF pictures are not supported"),
        "float": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "float"),
        "postscript": (encoded(photo, "EPS"), "PostScript .* not supported"),
    }


@pytest.mark.parametrize("case", bad_pictures(Image.new("RGB", (64, 64))))
def test_unreadable_says_why(photo, case):
    data, reason = bad_pictures(photo)[case]
    with pytest.raises(UnreadableError, match=reason):
        decode(data, LIMIT)


def test_too_many_pixels_are_refused_before_decoding():
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableError, match="10000x10000 pixels are more than max_pixels=10000000"):
        decode(bomb, LIMIT)

"""Colour profiles: pixels of any colour space are converted to sRGB with the same colours."""

import numpy as np
import profiles
import pytest
from pictures import encoded
from PIL import Image, ImageCms, PngImagePlugin

from faceq.sources.decode import colour
from faceq.sources.decode.image import decode

LIMIT = 10_000_000
SPACES = {
    "Adobe RGB": (profiles.ADOBE_RGB, 2.19921875),
    "ProPhoto": (profiles.PROPHOTO, 1.8),
    "Display P3": (profiles.DISPLAY_P3, None),
}


@pytest.fixture(scope="module")
def photo(astronaut) -> Image.Image:
    return Image.fromarray(astronaut[:128])


def in_space(levels: np.ndarray, colorants: np.ndarray, gamma: float | None) -> np.ndarray:
    """The pixels that a camera with this colour space writes for the colours of the sRGB `levels` (H, W,
    3)."""
    light = profiles.srgb_light(levels) @ (np.linalg.inv(colorants) @ profiles.SRGB).T
    coded = profiles.srgb_levels(light) / 255 if gamma is None else np.clip(light, 0, 1) ** (1 / gamma)
    return np.rint(coded * 255).astype(np.uint8)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_photo_of_a_wider_space_looks_as_it_does_in_srgb(astronaut, space, kind):
    stored = Image.fromarray(in_space(astronaut, *SPACES[space]))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, icc_profile=profiles.rgb(*SPACES[space]), **options)
    away = np.abs(decode(data, LIMIT).astype(int) - astronaut)
    # Rounding is visible where one step of the wide space is many steps of sRGB (dark saturated colours).
    assert away.mean() < 1.0 and np.percentile(away, 99) <= 5
    assert np.abs(np.asarray(stored).astype(int) - astronaut).mean() > 3


def test_a_jpeg_is_converted_after_it_is_decoded(astronaut):
    stored = Image.fromarray(in_space(astronaut, *SPACES["ProPhoto"]))
    data = encoded(stored, "JPEG", quality=95, icc_profile=profiles.rgb(*SPACES["ProPhoto"]))
    assert np.abs(decode(data, LIMIT).astype(int) - astronaut).mean() < 3


def test_colours_beyond_srgb_are_clipped():
    green = Image.new("RGB", (2, 2), (0, 255, 0))
    data = encoded(green, "PNG", icc_profile=profiles.rgb(*SPACES["Display P3"]))
    assert decode(data, LIMIT)[0, 0].tolist() == [0, 255, 0]


SRGB_PROFILES = {
    "tables": profiles.rgb(profiles.SRGB, None),
    "Pillow's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
}


@pytest.mark.parametrize("name", SRGB_PROFILES)
def test_srgb_stays_as_it_is(photo, name):
    data = encoded(photo, "PNG", icc_profile=SRGB_PROFILES[name])
    assert np.array_equal(decode(data, LIMIT), np.asarray(photo))
    assert colour.to_srgb({"icc_profile": SRGB_PROFILES[name]}, "RGB") is None


def test_the_transform_of_a_profile_is_made_once(photo):
    data = encoded(photo.resize((8, 8)), "PNG", icc_profile=profiles.rgb(*SPACES["ProPhoto"]))
    decode(data, LIMIT)
    before = colour._by_profile.cache_info().misses
    for _ in range(5):
        decode(data, LIMIT)
    assert colour._by_profile.cache_info().misses == before
    assert colour._by_profile.cache_info().maxsize <= 32


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_grey(photo, kind):
    levels = np.asarray(photo.convert("L"))
    stored = Image.fromarray(np.rint(255 * profiles.srgb_light(levels) ** (1 / 1.8)).astype(np.uint8))
    options = {"quality": 100} if kind == "JPEG" else {}
    pixels = decode(encoded(stored, kind, icc_profile=profiles.grey(1.8), **options), LIMIT)
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    away = np.abs(pixels[..., 0].astype(int) - levels)
    assert np.percentile(away, 99) <= 4 and away.mean() < 1.5
    assert np.abs(np.asarray(stored).astype(int) - levels).mean() > 5


def test_sixteen_bit_grey(photo):
    levels = np.asarray(photo.convert("L"))
    stored = np.rint(65535 * profiles.srgb_light(levels) ** (1 / 1.8)).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(stored), "PNG", icc_profile=profiles.grey(1.8)), LIMIT)
    assert np.abs(pixels[..., 0].astype(int) - levels).mean() < 1.5


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk(kind):
    """100% of an ink gives the colour of its profile, no ink gives white, and full black gives black."""
    inks = np.zeros((16, 80, 4), np.uint8)
    for index, ink in enumerate(
        [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    ):
        inks[:, 16 * index : 16 * index + 16] = ink
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(inks, "CMYK"), kind, icc_profile=profiles.cmyk(), **options)
    found = decode(data, LIMIT)[8, 8::16].astype(int)
    lightness = np.array([100.0, 70, 60, 90, 0])
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    assert np.abs(found - profiles.srgb_levels(light)[:, None]).max() <= 3
    assert np.ptp(found, axis=1).max() <= 1


def test_lab(photo):
    lab = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    pixels = decode(encoded(lab, "TIFF"), LIMIT)
    assert np.abs(pixels.astype(int) - np.asarray(photo)).mean() < 2


def test_alpha_is_not_converted_and_is_composited_over_white_afterwards():
    picture = Image.new("RGBA", (4, 1), (0, 128, 128, 255))
    for x, alpha in enumerate((0, 64, 192, 255)):
        picture.putpixel((x, 0), (0, 128, 128, alpha))
    profile = profiles.rgb(*SPACES["ProPhoto"])
    solid = decode(encoded(picture.convert("RGB"), "PNG", icc_profile=profile), LIMIT)[0, 0].astype(float)
    assert solid.tolist() != [0, 128, 128]
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        pixels = decode(encoded(picture, kind, icc_profile=profile, **options), LIMIT)
        shares = np.array([0, 64, 192, 255])[:, None] / 255
        assert np.abs(pixels[0] - (solid * shares + 255 * (1 - shares))).max() <= 1


def test_palette():
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 128, 128, 200, 60, 60])
    picture.putpixel((1, 0), 1)
    profile = profiles.rgb(*SPACES["Adobe RGB"])
    data = encoded(picture, "PNG", icc_profile=profile)
    assert np.array_equal(
        decode(data, LIMIT), decode(encoded(picture.convert("RGB"), "PNG", icc_profile=profile), LIMIT)
    )
    assert not np.array_equal(decode(data, LIMIT), np.asarray(picture.convert("RGB")))


WIDE = profiles.rgb(*SPACES["ProPhoto"])
USELESS = {
    "noise": b"\x93\x01\x02" * 100,
    "empty": b"",
    "cut off": WIDE[: len(WIDE) // 2],
    "header only": WIDE[:128],
    "of grey": profiles.grey(1.8),
    "of CMYK": profiles.cmyk(),
    "a link": WIDE[:12] + b"link" + WIDE[16:],
    "tags far away": WIDE[:136] + b"\x7f\xff\xff\xff" * 20 + WIDE[216:],
}


@pytest.mark.parametrize("name", USELESS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_profile_that_is_broken_or_does_not_fit_is_ignored(photo, name, kind):
    plain = decode(encoded(photo, kind), LIMIT)
    assert np.array_equal(decode(encoded(photo, kind, icc_profile=USELESS[name]), LIMIT), plain)


def test_a_profile_of_colours_does_not_fit_grey(photo):
    grey = photo.convert("L")
    assert np.array_equal(
        decode(encoded(grey, "PNG", icc_profile=WIDE), LIMIT), decode(encoded(grey, "PNG"), LIMIT)
    )


def gamma_png(picture: Image.Image, gamma: float, chunk: tuple[bytes, bytes] | None = None) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", round(gamma * 100_000).to_bytes(4))
    if chunk:
        info.add(*chunk)
    return encoded(picture, "PNG", pnginfo=info)


def test_linear_light_in_a_png_is_not_dark(astronaut, photo):
    linear = np.rint(255 * profiles.srgb_light(astronaut)).astype(np.uint8)
    away = np.abs(decode(gamma_png(Image.fromarray(linear), 1.0), LIMIT).astype(int) - astronaut)
    assert np.percentile(away[astronaut > 60], 99) <= 2
    # The sRGB chunk has priority. The usual gamma value and a gamma of 0 change nothing.
    for same in (gamma_png(photo, 1.0, (b"sRGB", b"\0")), gamma_png(photo, 0.45455), gamma_png(photo, 0)):
        assert np.array_equal(decode(same, LIMIT), np.asarray(photo))

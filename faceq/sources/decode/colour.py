"""Colour management: convert pixels with an embedded profile to sRGB, which models are trained on.

The conversion uses the relative colorimetric intent with black point compensation: colours that both spaces
can show are preserved, white stays white, and a printer's black becomes black. This is Photoshop's default.
For camera and display profiles browsers give the same result, because their black is 0 and the intent makes
no difference.

PNG's gamma chunk is applied if the file has neither a profile nor an sRGB chunk, as in browsers. The
primaries (cHRM) and code points (cICP) are ignored: files that need them also have a profile.
"""

import io
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]
"""Converts an image of mode L, RGB, CMYK or LAB to sRGB: L stays L, all others become RGB."""

_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}
_CLASSES = ("scnr", "mntr", "prtr", "spac")

_SAME = 2
"""Maximum difference from sRGB, in levels, at which a profile counts as one of the many variants of sRGB."""

_PROFILES = 16
"""Number of profiles whose transforms are cached: a data set has only a few different profiles."""

_SRGB_GAMMA = 1 / 2.2
_SAME_GAMMA = 0.05
"""Maximum relative difference at which a gamma counts as sRGB's; libpng's value."""


def to_srgb(info: Mapping[Any, Any], mode: str) -> Convert | None:
    """The conversion to sRGB; None if the pixels are sRGB already or there is no valid colour information.

    Args:
        info: Pillow's `info` dictionary with the profile. A damaged profile is ignored, and so is one whose
            colour space is not that of the pixels.
        mode: L, RGB, CMYK or LAB.
    """
    profile = info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        convert = _by_profile(profile, mode)
    elif mode in ("L", "RGB") and "gamma" in info and "srgb" not in info:
        convert = _by_gamma(info["gamma"], mode)
    else:
        convert = None
    return _by_profile(None, mode) if mode == "LAB" and convert is None else convert


@lru_cache(maxsize=_PROFILES)
def _by_profile(profile: bytes | None, mode: str) -> Convert | None:
    """The conversion for a profile; None stands for CIELAB under D50."""
    try:
        source = ImageCms.ImageCmsProfile(
            ImageCms.createProfile("LAB") if profile is None else io.BytesIO(profile)
        )
        kind = source.profile
        if profile is not None and (kind.xcolor_space != _SPACES[mode] or kind.device_class not in _CLASSES):
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        samples = _samples(mode)
        changed = ImageCms.applyTransform(samples, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if changed is None or (mode in ("L", "RGB") and _levels_apart(samples, changed) <= _SAME):
        return None
    if mode == "L":
        return partial(Image.Image.point, lut=list(changed.getchannel("G").tobytes()))
    return partial(_transformed, transform=transform)


def _samples(mode: str) -> Image.Image:
    """Test colours for a mode: all greys for L, a grid of colours for RGB, one pixel for others."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    if mode != "RGB":
        return Image.new(mode, (1, 1))
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3))


def _levels_apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one.convert("RGB"), np.int16) - np.asarray(other)).max())


def _transformed(picture: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    changed = ImageCms.applyTransform(picture, transform)
    assert changed is not None  # only a conversion in place returns None
    return changed


@lru_cache(maxsize=_PROFILES)
def _by_gamma(gamma: float, mode: str) -> Convert | None:
    """The conversion for a gamma, the exponent from light to samples."""
    if gamma <= 0 or abs(gamma / _SRGB_GAMMA - 1) <= _SAME_GAMMA:
        return None
    light = (np.arange(256) / 255) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    levels = np.rint(np.clip(curve, 0, 1) * 255).astype(int).tolist()
    return partial(Image.Image.point, lut=levels * len(mode))

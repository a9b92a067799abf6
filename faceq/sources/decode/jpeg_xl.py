"""JPEG XL, decoded by pillow-jxl-plugin, an optional package.

The decoder gets only the codestream. Its container may also hold metadata and a JPEG file, whose unpacked
size is not limited. They do not affect the pixels: the orientation is in the codestream.

Source: ISO/IEC 18181-1 (codestream), annex D, and 18181-2 (file format).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from faceq.errors import UnreadableError
from faceq.sources.boxes import children
from faceq.sources.decode.file_types import MISSING_PACKAGE, damaged

_CODESTREAM = b"\xff\x0a"
_FILE = b"\0\0\0\x0cJXL \r\n\x87\n"
MAGIC = (_CODESTREAM, _FILE)

_MOST_EXTRAS = 4
"""Maximum number of channels besides the colours, such as alpha. Each takes memory for all pixels."""

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZES = ((1, 9), (1, 13), (1, 18), (1, 30))
_MODES = {(1, False): "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}


@dataclass(frozen=True)
class _Header:
    """What the header of a codestream states. extras: number of channels besides the colours."""

    width: int
    height: int
    animated: bool = False
    floating: bool = False
    extras: int = 0


def read(data: bytes, check_pixels: Callable[[int, int], None]) -> Image.Image:
    """Decode an image, upright: the decoder applies its orientation.

    Args:
        data: the file.
        check_pixels: called with width and height before the pixels are decoded.

    Raises:
        UnreadableError: pillow-jxl-plugin is not installed; the file is damaged or not supported.
    """
    try:
        import pillow_jxl  # noqa: PLC0415 - an optional package
    except ImportError:
        raise UnreadableError(MISSING_PACKAGE.format("JPEG XL", "pillow-jxl-plugin")) from None
    codestream = data if data.startswith(_CODESTREAM) else _codestream(data)
    header = _header(codestream)
    check_pixels(header.width, header.height)
    if kind := _unsupported(header):
        raise UnreadableError(f"JPEG XL with {kind} is not supported: convert it to PNG")
    try:
        decoder = pillow_jxl.Decoder(num_threads=0)  # the calling thread alone
        _, info, content, profile, _ = decoder(codestream)
    except BaseException as error:
        # PanicException, which Rust code raises about some damaged files, is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UnreadableError(damaged("its data are inconsistent or end early")) from None
    if profile and profile[16:20] == b"CMYK":
        raise UnreadableError("JPEG XL with CMYK colours is not supported: convert it to PNG")
    mode = _MODES[1 if info.num_channels < 3 else 3, info.has_alpha_channel]
    samples = np.frombuffer(content, np.uint8)
    if len(samples) == 2 * info.width * info.height * len(mode):
        samples = (samples.view(np.uint16) >> 8).astype(np.uint8)  # the decoder scales samples to 16 bits
    picture = Image.frombuffer(mode, (info.width, info.height), samples, "raw", mode, 0, 1)
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _unsupported(header: _Header) -> str:
    """What is not supported about an image; empty if nothing is."""
    if header.animated:
        return "an animation"
    if header.floating:
        return "floating-point samples"
    return f"{header.extras} extra channels" if header.extras > _MOST_EXTRAS else ""


def _codestream(data: bytes) -> bytes:
    """The codestream in a file: one box, or several parts, each behind its number."""
    parts = []
    for kind, start, end in children(data, 0, len(data)):
        if kind == b"jxlc":
            return data[start:end]
        if kind == b"jxlp":
            parts.append(data[start + 4 : end])
    return b"".join(parts)


class _Bits:
    """Reads numbers from the first bytes of a codestream, the lowest bit first."""

    def __init__(self, data: bytes):
        self._bits = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        found = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return found

    def one_of(self, *choices: tuple[int, int] | int) -> int:
        """A number of variable length; a choice is its value, or (offset, number of bits)."""
        chosen = choices[self.take(2)]
        return chosen if isinstance(chosen, int) else chosen[0] + self.take(chosen[1])


def _header(codestream: bytes) -> _Header:
    """Raises UnreadableError if it is cut off."""
    if not codestream.startswith(_CODESTREAM) or len(codestream) < 8:
        raise UnreadableError(damaged("its header is missing"))
    bits = _Bits(codestream[2:66])
    width, height = _dimensions(bits)
    if bits.take(1):  # everything else has its default
        return _Header(width, height)
    if bits.take(1):
        bits.take(3)  # the orientation
        if bits.take(1):
            _dimensions(bits)
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            return _Header(width, height, animated=True)
    floating = bool(bits.take(1))
    if floating:
        return _Header(width, height, floating=True)
    bits.one_of(8, 10, 12, (1, 6))
    bits.take(1)
    return _Header(width, height, extras=bits.one_of(0, 1, (2, 4), (1, 12)))


def _dimensions(bits: _Bits) -> tuple[int, int]:
    """Width and height."""
    by_eight = bits.take(1)
    height = 8 * (1 + bits.take(5)) if by_eight else bits.one_of(*_SIZES)
    ratio = bits.take(3)
    if ratio:
        times, by = _RATIOS[ratio - 1]
        return height * times // by, height
    return 8 * (1 + bits.take(5)) if by_eight else bits.one_of(*_SIZES), height


def _preview(bits: _Bits) -> None:
    """Skip the size of the preview."""
    by_eight = bits.take(1)
    sizes = (16, 32, (1, 5), (33, 9)) if by_eight else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.one_of(*sizes)
    if not bits.take(3):
        bits.one_of(*sizes)

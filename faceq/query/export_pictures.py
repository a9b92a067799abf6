"""What an export of frames writes as images: the original files, or crops in a chosen format."""

import math
from dataclasses import dataclass

from faceq.errors import UsageError
from faceq.faces import ffhq
from faceq.faces.face_square import MARGIN
from faceq.faces.geometry import ALIGNED_SIZE
from faceq.query.dataset_card import ORIGINAL_BYTES

SIZES = (ALIGNED_SIZE, *ffhq.SIZES)
"""Sides of aligned crops, in pixels."""

MAX_MARGIN = 10.0

_IN_ROWS = (
    "The face box and the landmarks in the row are in pixels of the frame; `crop_to_frame` maps pixels of "
    "the crop to them: u, v is at x = a*u + b*v + c, y = d*u + e*v + f. `crop_inside` is the share of the "
    "crop inside the frame. "
)


@dataclass(frozen=True)
class ExportPictures:
    """The crop and the format of the images of an export.

    Args:
        crop: `frame`: the whole frame. `face`: the square around the face, `face:MARGIN` with another margin
            on each side, in units of the longer side of the face box (0 to 10, 0.5 by default). `aligned` or
            `aligned:SIZE`: the aligned face; 112 pixels (the default) are the template of recognisers, 256,
            512 and 1024 are FFHQ's alignment.
        format: `keep`: the original bytes. `jpeg:QUALITY` with a quality from 1 to 100, `png`, `webp`
            (lossless) or `webp:QUALITY`. None: `keep` for whole frames, `png` for crops.

    After the construction both are normalised: `face` is `face:0.5`, and `format` is never None.

    Raises:
        UsageError: unknown names, numbers out of range, or `keep` with a crop.
    """

    crop: str = "frame"
    format: str | None = None

    def __post_init__(self) -> None:
        given = self.format or ("keep" if self.crop == "frame" else "png")
        object.__setattr__(self, "crop", _crop(self.crop))
        object.__setattr__(self, "format", _format(given))
        if self.format == "keep" and self.crop != "frame":
            raise UsageError(
                f"--format keep: a crop ({self.crop}) has other bytes than its source: choose png, webp or "
                "jpeg:95"
            )

    @property
    def keeps_bytes(self) -> bool:
        """Whether the original bytes are written."""
        return self.format == "keep"

    @property
    def kind(self) -> str:
        """The crop: `frame`, `face` or `aligned`."""
        return self.crop.partition(":")[0]

    @property
    def margin(self) -> float:
        """The margin of the crop `face`."""
        return float(self.crop.partition(":")[2])

    @property
    def size(self) -> int:
        """The side of the crop `aligned`, pixels."""
        return int(self.crop.partition(":")[2])

    @property
    def encoding(self) -> tuple[str, int | None]:
        """The format without its quality, and the quality."""
        name, _, quality = (self.format or "").partition(":")
        return name, int(quality) if quality else None

    def check_faces(self) -> None:
        """UsageError if the images are not crops. Whole frames have no faces of their own."""
        if self.kind == "frame":
            raise UsageError(
                "--export-shards writes a crop of each face with --faces: add --crop face or --crop aligned; "
                "to export whole frames, leave out --faces and choose them by their faces, such as "
                '"len(list_filter(faces, lambda face: face.dbcnn >= 40)) > 0"'
            )

    @property
    def about(self) -> str:
        """What the images of the export are, for its dataset card."""
        if self.keeps_bytes:
            return ORIGINAL_BYTES
        whole = self.kind == "frame"
        name = {"frame": "Images are frames", "face": "Images are crops of faces"}.get(self.kind, "")
        if self.kind == "aligned":
            template = "in FFHQ's alignment" if self.size in ffhq.SIZES else "aligned for recognisers"
            name = f"Images are faces of {self.size}x{self.size} pixels, {template}"
        return (
            f"{name} (`--crop {self.crop} --format {self.format}`), upright and in sRGB. "
            f"{'' if whole else _IN_ROWS}Sidecars have the same bytes as in their source."
        )


def _crop(text: str) -> str:
    """The crop with its number spelled out. Raises UsageError."""
    name, colon, number = text.partition(":")
    if name == "face":
        return f"face:{_margin(number) if colon else MARGIN:g}"
    if name == "aligned":
        if colon and number not in map(str, SIZES):
            sizes = ", ".join(map(str, SIZES[:-1]))
            raise UsageError(
                f"--crop {text}: there are aligned crops of {sizes} and {SIZES[-1]} pixels: choose one of "
                f"these, such as aligned:{SIZES[-1]}, and scale it"
            )
        return f"aligned:{number or ALIGNED_SIZE}"
    if text != "frame":
        raise UsageError(f"--crop {text}: choose frame, face, face:MARGIN, aligned or aligned:SIZE")
    return text


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = math.nan
    if not 0 <= margin <= MAX_MARGIN:
        raise UsageError(
            f"--crop face:{text}: the margin must be a number from 0 to {MAX_MARGIN:g}, in units of the "
            f"longer side of the face box, such as face:{MARGIN:g}"
        )
    return margin


def _format(text: str) -> str:
    """The format with its number in one spelling. Raises UsageError."""
    name, colon, number = text.partition(":")
    if text in ("keep", "png", "webp"):
        return text
    if name not in ("jpeg", "webp"):
        raise UsageError(f"--format {text}: choose keep, png, webp, webp:QUALITY or jpeg:QUALITY")
    if not colon:
        raise UsageError("--format jpeg: add the quality, such as jpeg:95")
    if not (number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= 100):
        raise UsageError(f"--format {text}: the quality must be a whole number from 1 to 100, such as 95")
    return f"{name}:{int(number)}"


ORIGINALS = ExportPictures()

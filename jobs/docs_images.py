"""Write the images of README and docs/: `python -m jobs.docs_images [FOLDER]`.

All of them show one photo and degraded copies of it: NASA's portrait of Eileen Collins, which is in the
public domain and comes with scikit-image (`skimage.data.astronaut`). The scores below the faces are those of
the `embedded` preset. The script fails if a score lies outside the band that its face stands for.

- inspect.png: what `faceq inspect` draws, for the sharp photo and two degraded copies.
- bands-serfiq.png, bands-dbcnn.png: one face for each band of a score.
- combinations.png: faces with high and low values of either score.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceq import config
from faceq.evaluation import distortions
from faceq.report.picture import SIDE, Inspected, Inspector
from faceq.sources.frame import Frame
from jobs import demo

GAP = 8
PAPER, INK, QUIET = (255, 255, 255), (20, 20, 20), (100, 100, 100)
COLOURS = 200
"""Of the palette of a file: fewer make files smaller and faces blotchy."""

Pixels = np.ndarray
Degrade = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Example:
    """A degraded copy of the photo, and where its scores must lie: [low, high)."""

    title: str
    degrade: Degrade
    serfiq: tuple[float, float] = (0.0, 1.01)
    dbcnn: tuple[float, float] = (0.0, 101.0)


def _same(photo: Pixels) -> Pixels:
    return photo


def _blur(sigma: float) -> Degrade:
    return lambda photo: distortions.gaussian_blur(photo, sigma)


def _noise(sigma: float) -> Degrade:
    return lambda photo: distortions.white_noise(photo, sigma, seed=0)


def _low_light(stops: float) -> Degrade:
    return lambda photo: distortions.low_light(photo, stops, seed=0)


def _jpeg(quality: int) -> Degrade:
    return lambda photo: distortions.jpeg(photo, quality)


def _covered(photo: Pixels) -> Pixels:
    """A plain band over the eyes."""
    covered = photo.copy()
    covered[120:190, 90:300] = (30, 30, 34)
    return covered


INSPECT = (
    Example("sharp", _same),
    Example("noise", _noise(40)),
    Example("blur", _blur(6)),
)
SERFIQ_BANDS = (
    Example("sharp", _same, serfiq=(0.8, 1.01)),
    Example("blur", _blur(5), serfiq=(0.6, 0.8)),
    Example("more blur", _blur(6), serfiq=(0.5, 0.6)),
    Example("more blur", _blur(6.5), serfiq=(0.3, 0.5)),
    Example("more blur", _blur(8), serfiq=(0.0, 0.3)),
)
DBCNN_BANDS = (
    Example("sharp", _same, dbcnn=(70, 101)),
    Example("low light", _low_light(2), dbcnn=(55, 70)),
    Example("JPEG quality 6", _jpeg(6), dbcnn=(35, 55)),
    Example("blur", _blur(4), dbcnn=(0, 35)),
)
COMBINATIONS = (
    Example("sharp", _same, serfiq=(0.6, 1.01), dbcnn=(55, 101)),
    Example("noise", _noise(50), serfiq=(0.6, 1.01), dbcnn=(0, 55)),
    Example("eyes covered", _covered, serfiq=(0.0, 0.6), dbcnn=(55, 101)),
    Example("blur", _blur(7), serfiq=(0.0, 0.6), dbcnn=(0, 55)),
)


def main() -> int:
    """Write all images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="docs/images", type=Path, help="default: docs/images")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio()
    _write(studio.strip(INSPECT, studio.annotated, 272), folder / "inspect.png")
    _write(studio.strip(SERFIQ_BANDS, studio.face, 160), folder / "bands-serfiq.png")
    _write(studio.strip(DBCNN_BANDS, studio.face, 200), folder / "bands-dbcnn.png")
    _write(studio.strip(COMBINATIONS, studio.face, 200), folder / "combinations.png")
    return 0


class Studio:
    """Degrades the photo, scores the copies, and draws them side by side."""

    def __init__(self) -> None:
        self._inspector = Inspector(config.build({}))
        self._photo = demo.source_faces()["astronaut"]

    def strip(
        self, examples: Sequence[Example], draw: Callable[[Inspected], Pixels], side: int
    ) -> Image.Image:
        """The examples side by side, `side` pixels wide each, with title and scores below."""
        looks = self._inspector([self._frame(example) for example in examples])
        tiles = [
            _tile(draw(look), example, look, side) for example, look in zip(examples, looks, strict=True)
        ]
        width = sum(tile.width for tile in tiles) + GAP * (len(tiles) - 1)
        strip = Image.new("RGB", (width, max(tile.height for tile in tiles)), PAPER)
        left = 0
        for tile in tiles:
            strip.paste(tile, (left, 0))
            left += tile.width + GAP
        return strip

    def _frame(self, example: Example) -> Frame:
        file = io.BytesIO()
        Image.fromarray(example.degrade(self._photo)).save(file, "PNG")
        return Frame(example.title, None, 0, file.getvalue())

    def face(self, look: Inspected) -> Pixels:
        """The middle of the frame: the face and some of what surrounds it."""
        assert look.image is not None
        photo = np.asarray(Image.open(io.BytesIO(look.image)))
        edge = len(photo) // 6
        return photo[edge:-edge, edge:-edge]

    def annotated(self, look: Inspected) -> Pixels:
        """What `faceq inspect --out` draws: the photo with box, landmarks and outline."""
        photo = self._inspector.annotated(look)[:, : -SIDE // 2]
        edge = len(photo) // 6
        return photo[edge:-edge, edge:-edge]


def _tile(drawn: Pixels, example: Example, look: Inspected, side: int) -> Image.Image:
    """What was drawn, with title and scores below."""
    serfiq, dbcnn = look.row["serfiq"], look.row["dbcnn"]
    for name, value, (low, high) in (("serfiq", serfiq, example.serfiq), ("dbcnn", dbcnn, example.dbcnn)):
        if not low <= value < high:
            sys.exit(
                f"{example.title}: {name} is {value:.3f}, outside {low:g} to {high:g}: degrade it otherwise"
            )
    how = cv2.INTER_AREA if len(drawn) > side else cv2.INTER_CUBIC
    tile = Image.new("RGB", (side, side + 64), PAPER)
    tile.paste(Image.fromarray(cv2.resize(drawn, (side, side), interpolation=how)), (0, 0))
    draw = ImageDraw.Draw(tile)
    for line, (text, colour) in enumerate(
        ((example.title, QUIET), (f"serfiq {serfiq:.2f}", INK), (f"dbcnn {dbcnn:.0f}", INK))
    ):
        draw.text((side // 2, side + 4 + 19 * line), text, colour, ImageFont.load_default(15), anchor="ma")
    return tile


def _write(image: Image.Image, path: Path) -> None:
    reduced = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())

"""Write the images of README and docs/: `python -m jobs.docs_images [FOLDER]`.

All of them show one photo and degraded copies of it: NASA's portrait of Eileen Collins, which is in the
public domain and comes with scikit-image (`skimage.data.astronaut`). The scores below the faces are those of
the preset `embedded`. The script fails if a score is outside the band of its face.

- inspect.png: what `faceq inspect` draws on the sharp photo and two degraded copies.
- bands-serfiq.png, bands-dbcnn.png: one face for each band of a score.
- combinations.png: faces with high and low values of both scores.
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
from faceq.report.picture import Inspected, Inspector
from faceq.sources.frame import Frame
from jobs import demo
from jobs.benchmarks import measure_edits

GAP = 8
PAPER, INK, QUIET = (255, 255, 255), (20, 20, 20), (100, 100, 100)
COLOURS = 256
"""Size of a file's palette. With fewer colours, files are smaller, but faces are blotchy."""

Pixels = np.ndarray
Degrade = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Example:
    """A degraded copy of the photo, and the range of its scores: [low, high)."""

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


def _jpeg(quality: int) -> Degrade:
    return lambda photo: distortions.jpeg(photo, quality)


def _sharpened(photo: Pixels) -> Pixels:
    return measure_edits.sharpened(photo, 1.0)


def _eyes_covered(photo: Pixels) -> Pixels:
    """Draw a plain band over the eyes, which lie at (165, 169) and (224, 172)."""
    covered = photo.copy()
    covered[150:188, 120:268] = (60, 90, 120)
    return covered


INSPECT = (
    Example("sharp", _same),
    Example("noise", _noise(40)),
    Example("blur", _blur(6)),
)
SERFIQ_BANDS = (
    Example("sharp", _same, serfiq=(0.8, 1.01)),
    Example("blur, sigma 3.5", _blur(3.5), serfiq=(0.6, 0.8)),
    Example("blur, sigma 4", _blur(4), serfiq=(0.5, 0.6)),
    Example("blur, sigma 4.75", _blur(4.75), serfiq=(0.3, 0.5)),
    Example("blur, sigma 6", _blur(6), serfiq=(0.0, 0.3)),
)
DBCNN_BANDS = (
    Example("sharpened", _sharpened, dbcnn=(70, 101)),
    Example("sharp", _same, dbcnn=(55, 70)),
    Example("noise, sigma 40", _noise(40), dbcnn=(35, 55)),
    Example("blur, sigma 2", _blur(2), dbcnn=(0, 35)),
)
COMBINATIONS = (
    Example("sharp", _same, serfiq=(0.6, 1.01), dbcnn=(55, 101)),
    Example("JPEG, quality 6", _jpeg(6), serfiq=(0.6, 1.01), dbcnn=(0, 55)),
    Example("eyes covered", _eyes_covered, serfiq=(0.0, 0.6), dbcnn=(55, 101)),
    Example("blur, sigma 6", _blur(6), serfiq=(0.0, 0.6), dbcnn=(0, 55)),
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
        """The middle of the frame: the face and some of its surroundings."""
        assert look.image is not None
        photo = np.asarray(Image.open(io.BytesIO(look.image)))
        edge = len(photo) // 6
        return photo[edge:-edge, edge:-edge]

    def annotated(self, look: Inspected) -> Pixels:
        """The photo with box, landmarks and outline, as in the output of `faceq inspect --out`."""
        photo = self._inspector.drawn(look)
        assert photo is not None
        edge = len(photo) // 6
        return photo[edge:-edge, edge:-edge]


def _tile(drawn: Pixels, example: Example, look: Inspected, side: int) -> Image.Image:
    """The drawn image, with title and scores below."""
    serfiq, dbcnn = look.row["serfiq"], look.row["dbcnn"]
    for name, value, (low, high) in (("serfiq", serfiq, example.serfiq), ("dbcnn", dbcnn, example.dbcnn)):
        if not low <= value < high:
            sys.exit(
                f"{example.title}: {name} is {value:.3f}, outside {low:g} to {high:g}: degrade it differently"
            )
    how = cv2.INTER_AREA if len(drawn) > side else cv2.INTER_CUBIC
    text = 10 + side // 18  # legible on a phone, where the strip is shrunk to less than half
    tile = Image.new("RGB", (side, side + 4 * text), PAPER)
    tile.paste(Image.fromarray(cv2.resize(drawn, (side, side), interpolation=how)), (0, 0))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(text)
    lines = ((example.title, QUIET), (f"serfiq {serfiq:.2f}", INK), (f"dbcnn {dbcnn:.0f}", INK))
    for number, (line, colour) in enumerate(lines):
        draw.text((side // 2, side + 4 + round(1.25 * text * number)), line, colour, font, anchor="ma")
    return tile


def _write(image: Image.Image, path: Path) -> None:
    reduced = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())

"""Measure whether each face of a picture gets the same scores as when it is cut out alone.

    python -m jobs.benchmarks.measure_groups PICTURES…
    python -m jobs.benchmarks.measure_groups PHOTOS… --mosaics 4 8 12

Scores every picture with `faces: all`. Then cuts out each listed face, with a margin of its own size on each
side, and scores that part as a picture of its own. With `--mosaics`, the photos become mosaics of 1920 pixels
with that many photos in a row and in a column, and the parts are the photos.

Prints a line for each picture:

- faces: number of faces that the detector found (`n_faces`). listed: number of `faces`.
- Why the others are not listed: "small" (below `min_face`), "no face" (both models are unsure), "same" (the
  face is listed already), "lost" (it is not found again in the region around it). Those that are missing here
  are further boxes of the same faces.
- not alone: listed faces that are not found in their part. alone only: faces of at least `min_face` that are
  found in a part and not listed. Each of them has a line of its own, too.
- Median and maximum of the absolute differences of the scores.

The last table has the differences of whole faces by their width, of all whole faces, and of all faces. Faces
that the edge of the frame cuts off differ more.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rich.console
import rich.table

from faceq import config
from faceq.faces import detect, landmarks
from faceq.faces.all_faces import all_faces
from faceq.faces.detect import Face
from faceq.faces.finder import Finder, is_face
from faceq.faces.search import run
from faceq.faces.views import SAME_FACE, is_among
from faceq.sources.decode.image import decode
from faceq.stages.chosen_models import choose
from faceq.stages.scorer import Scorer
from jobs.benchmarks.track_agreement import iou

MOSAIC_SIDE = 1920
WIDTHS = (40, 56, 80, 112, 160, 10_000)
"""Limits of the classes of faces in the last table, pixels."""

WHOLE = 0.9
"""Least `face_inside` of a face that is not cut off."""

SCORES = ("serfiq", "dbcnn")
REASONS = ("small", "no face", "same", "lost")

FaceValues = dict[str, Any]
"""An element of the column `faces`."""


@dataclass(frozen=True)
class Picture:
    """image: (H, W, 3) uint8 RGB. parts: of a mosaic, as left, top, right and bottom in pixels; None: the
    parts are those around the listed faces."""

    name: str
    image: np.ndarray
    parts: list[tuple[int, int, int, int]] | None = None


@dataclass
class Comparison:
    """A picture and its parts. unlisted: number of faces by reason. pairs: a listed face and the same face in
    its part. not_alone, alone_only: faces without the other one, in pixels of the picture."""

    n_faces: int
    listed: list[FaceValues]
    unlisted: Counter[str]
    pairs: list[tuple[FaceValues, FaceValues]] = field(default_factory=list)
    not_alone: list[FaceValues] = field(default_factory=list)
    alone_only: list[FaceValues] = field(default_factory=list)


class Groups:
    """Compares the faces of pictures with the same faces in parts of them."""

    def __init__(self) -> None:
        settings: dict[str, Any] = {"faces": "all", "max_faces": config.MOST_FACES, "fiq_threshold": 0}
        self._scorer = Scorer(**settings)
        chosen = config.build(settings)
        models = choose(chosen)
        self._min_face = chosen.min_face
        detector = detect.load(models.path("detector"), chosen.det_threshold)
        self._finder = Finder(detector, landmarks.load(models.path("landmarks")), chosen.min_face)

    def compare(self, picture: Picture) -> Comparison:
        """The faces of a picture and of its parts."""
        (row,) = self._scorer.score([picture.image]).to_pylist()
        found = Comparison(row["n_faces"], row["faces"], self._unlisted(picture.image))
        parts = picture.parts or [_around(face, picture.image) for face in found.listed]
        shown = [np.ascontiguousarray(picture.image[y:y2, x:x2]) for x, y, x2, y2 in parts]
        alone = [
            [_moved(face, part) for face in of_part["faces"]]
            for part, of_part in zip(parts, self._scorer.score(shown).to_pylist(), strict=True)
        ]
        for at, face in enumerate(found.listed):
            there = alone[at] if picture.parts is None else list(itertools.chain(*alone))
            same = max(there, key=lambda other: _overlap(face, other), default=None)
            if same is not None and _overlap(face, same) >= SAME_FACE:
                found.pairs.append((face, same))
            else:
                found.not_alone.append(face)
        for face in itertools.chain(*alone):
            known = [*found.listed, *found.alone_only]
            if face["status"] == "scored" and all(_overlap(face, other) < SAME_FACE for other in known):
                found.alone_only.append(face)
        return found

    def _unlisted(self, image: np.ndarray) -> Counter[str]:
        """The number of faces that were detected and are not listed, by reason."""
        main = self._finder(image)
        if main is None or not is_face(main):
            return Counter()
        listed = [
            found.face
            for found in run(all_faces(self._finder, image, main, self._min_face, config.MOST_FACES))
        ]
        others: list[Face] = []  # each once: several passes may have detected it
        for face in main.seen:
            if not is_among(face, [*listed, *others]):
                others.append(face)
        return Counter(self._reason(image, face, listed) for face in others)

    def _reason(self, image: np.ndarray, face: Face, listed: list[Face]) -> str:
        if face.box[2:].max() < self._min_face:
            return "small"
        found = run(self._finder.follow(image, face))
        if found is None:
            return "lost"
        if not is_face(found):
            return "no face"
        return "small" if found.face.box[2:].min() < self._min_face else "same"


def mosaics(paths: list[Path], sizes: list[int]) -> Iterator[Picture]:
    """Mosaics of photos, from the first photo on, for each number of photos in a row."""
    for size in sizes:
        side = MOSAIC_SIDE // size
        image = np.full((MOSAIC_SIDE, MOSAIC_SIDE, 3), 128, np.uint8)
        parts = []
        for at, path in enumerate(paths[: size**2]):
            photo = _read(path)
            scale = side / max(photo.shape[:2])
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            tile = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=way)[:side, :side]
            x, y = at % size * side, at // size * side
            parts.append((x, y, x + tile.shape[1], y + tile.shape[0]))
            image[y : parts[-1][3], x : parts[-1][2]] = tile
        yield Picture(f"{size}x{size} photos", image, parts)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", type=Path)
    parser.add_argument("--mosaics", nargs="+", type=int, metavar="N", help="photos in a row of a mosaic")
    options = parser.parse_args()
    pictures = (
        mosaics(options.pictures, options.mosaics)
        if options.mosaics
        else (Picture(path.name, _read(path)) for path in options.pictures)
    )
    groups, pairs = Groups(), []
    titles = [f"{name}, {kind}" for name in SCORES for kind in ("median", "max")]
    names = ("picture", "size", "faces", "listed", *REASONS, "not alone", "alone only", *titles)
    shown = _table(*names)
    for picture in pictures:
        found = groups.compare(picture)
        pairs += found.pairs
        height, width = picture.image.shape[:2]
        counts = [found.n_faces, len(found.listed), *(found.unlisted[reason] for reason in REASONS)]
        counts += [len(found.not_alone), len(found.alone_only)]
        shown.add_row(picture.name, f"{width}x{height}", *map(str, counts), *_differences(found.pairs))
        for title, faces in (("not alone", found.not_alone), ("alone only", found.alone_only)):
            for face in faces:
                print(f"{picture.name}, {title}: {_described(face)}", flush=True)
    by_width = _table("face width", "faces", *titles)
    whole = [pair for pair in pairs if all((face["face_inside"] or 0) >= WHOLE for face in pair)]
    classes = {
        f"{least} to {most}": [pair for pair in whole if least <= pair[0]["face_w"] < most]
        for least, most in itertools.pairwise(WIDTHS)
    }
    for title, some in {**classes, "whole faces": whole, "all faces": pairs}.items():
        by_width.add_row(title, str(len(some)), *_differences(some))
    console = rich.console.Console(width=180)
    console.print(shown)
    console.print(by_width)


def _table(first: str, *others: str) -> rich.table.Table:
    shown = rich.table.Table(first, box=None, pad_edge=False)
    for title in others:
        shown.add_column(title, justify="right")
    return shown


def _differences(pairs: list[tuple[FaceValues, FaceValues]]) -> list[str]:
    """Median and maximum of the absolute differences of each of SCORES."""
    shown = []
    for name, places in zip(SCORES, (4, 2), strict=True):
        away = [abs(one[name] - other[name]) for one, other in pairs if None not in (one[name], other[name])]
        shown += [f"{np.median(away):.{places}f}", f"{max(away):.{places}f}"] if away else ["", ""]
    return shown


def _described(face: FaceValues) -> str:
    place = ", ".join(f"{face[f'face_{side}']:.0f}" for side in "xywh")
    values = {name: face[name] for name in ("det_score", "face_confidence", "roll", *SCORES)}
    shown = " ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
    return f"box {place}; {face['status']} {shown}"


def _around(face: FaceValues, image: np.ndarray) -> tuple[int, int, int, int]:
    """The part of an image around a face, with a margin as large as the face on each side."""
    x, y, width, height = (face[f"face_{side}"] for side in "xywh")
    margin, (bottom, right) = max(width, height), image.shape[:2]
    return (
        max(0, int(x - margin)),
        max(0, int(y - margin)),
        min(right, int(x + width + margin)),
        min(bottom, int(y + height + margin)),
    )


def _moved(face: FaceValues, part: tuple[int, int, int, int]) -> FaceValues:
    """A face of a part, in pixels of the picture."""
    return {**face, "face_x": face["face_x"] + part[0], "face_y": face["face_y"] + part[1]}


def _overlap(one: FaceValues, other: FaceValues) -> float:
    """Intersection over union of the boxes, 0...1."""
    boxes = (np.array([[face[f"face_{side}"] for side in "xywh"]]) for face in (one, other))
    return float(iou(*boxes).item())


def _read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), config.MOST_PIXELS)


if __name__ == "__main__":
    main()

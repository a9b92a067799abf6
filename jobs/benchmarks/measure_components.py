"""Measure which component measures each edit of a face changes.

    python -m jobs.benchmarks.measure_components PHOTOS… [--faces 40] [--sheet FILE.png]

Edits PHOTOS with one face each in steps (`face_edits`), and measures them by the first stage of the job. Each
cell of the table has the median over the faces of Spearman's correlation of step and measure, and the median
change at the last step, in percent of the range of the measure. The range is what the middle 98% of the
photos and of the edits that are meant to change the measure span. The last column has the median absolute
change in mirrored photos, where left and right are exchanged. `--sheet` writes a picture of all edits of one
face. The last line has the CPU time of the measures: what the stage takes more than without them. Both run
several times in turn, and the shortest runs count.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import rich.console
import rich.table
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr

from faceq.config import Config
from faceq.evaluation.distortions import Image
from faceq.faces import detect, landmarks
from faceq.faces.finder import Finder, is_face
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.table.measure_columns import MEASURES
from jobs.benchmarks.face_edits import EDITS, STEPS, Posed
from jobs.benchmarks.measure_edits import photos_of

RUNS = 7  # of each stage, to measure its time
LEAST_FACE = 90  # pixels; smaller ones have no sharpness to lose

MEASURED = ("yaw", "pitch", "roll", "face_confidence", "align_error", *(measure.name for measure in MEASURES))

OWN: dict[str, tuple[str, ...]] = {
    "yaw": ("yaw",),
    "pitch": ("pitch",),
    "roll": ("roll",),
    "single_face": ("second face",),
    "eye_distance": ("scaled down",),
    "head_size": ("more around",),
    "face_inside": ("cut off, left", "cut off, right", "cut off, above", "cut off, below"),
    **{f"margin_{side}": (f"cut off, {side}", "more around") for side in ("left", "right", "above", "below")},
    "eyes_open": ("eyes closed",),
    "mouth_open": ("mouth opened",),
    "sharpness": ("blur", "enlarged"),
    "noise": ("noise",),
    "compression": ("JPEG",),
    "luminance_mean": ("darker", "brighter"),
    "luminance_variance": ("less contrast",),
    "under_exposed": ("darker",),
    "over_exposed": ("brighter",),
    "dynamic_range": ("less contrast",),
    "illumination_uniformity": ("one side dark",),
    "natural_colour": ("tinted",),
}
"""The edits that are meant to change each measure."""

MIRRORED = {"margin_left": "margin_right", "margin_right": "margin_left"}


class Measurer:
    """Finds faces, and measures images."""

    def __init__(self) -> None:
        settings = Config()
        models = choose(settings)
        detector = detect.load(models.path("detector"), settings.det_threshold, "cpu", 1, None)
        mesh = landmarks.load(models.path("landmarks"), "cpu", 1, None)
        self.find, self._stage = Finder(detector, mesh, settings.min_face), FindFace(settings, models)

    def posed(self, photos: list[Image]) -> list[Posed]:
        """The photos with one face that is large enough, each with the next one."""
        kept: list[tuple[Image, NDArray[np.float64]]] = []
        for photo in photos:
            found = self.find(photo)
            if found is None or not is_face(found) or len(found.areas) > 1:
                continue
            if found.face.box[2:].min() >= LEAST_FACE:
                kept.append((photo, found.dense.points.astype(np.float64)))
        return [Posed(*each, kept[(at + 1) % len(kept)]) for at, each in enumerate(kept)]

    def __call__(self, images: list[Image]) -> NDArray[np.float64]:
        """(N, len(MEASURED)); NaN where there is no face or the measure is null."""
        encoded = [stored(image) for image in images]
        rows = self._stage(pa.table({"image": encoded, "status": pa.nulls(len(encoded), pa.string())}))
        columns = (rows[name].cast(pa.float64()).to_numpy() for name in MEASURED)
        return np.column_stack([np.asarray(column, np.float64) for column in columns])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", help="images or folders of images, with one face each")
    parser.add_argument("--faces", type=int, default=40, help="number of photos (40)")
    parser.add_argument("--sheet", type=Path, help="file for a picture of all edits of the first face")
    options = parser.parse_args()
    measure = Measurer()
    faces = measure.posed(photos_of(options.photos, 3 * options.faces))[: options.faces]
    if options.sheet:
        cv2.imwrite(str(options.sheet), sheet(faces[0])[..., ::-1])
    found = {name: measured(measure, faces, name) for name in track(EDITS, "edits", transient=True)}
    console = rich.console.Console(width=400)
    console.print(f"{len(faces)} faces")
    console.print(table(found, mirrored(measure, faces)))
    console.print(f"{1e3 * cost([face.photo for face in faces]):.2f} ms of CPU time per frame")


def measured(measure: Measurer, faces: list[Posed], name: str) -> NDArray[np.float64]:
    """The measures (faces, STEPS + 1, len(MEASURED)) along an edit."""
    return np.stack([measure([EDITS[name](face, step) for step in range(STEPS + 1)]) for face in faces])


def cost(photos: list[Image]) -> float:
    """Seconds of CPU time that the measures of a photo take."""
    rows = pa.table({"image": list(map(stored, photos)), "status": pa.nulls(len(photos), pa.string())})
    settings = [Config(measures=measures) for measures in ("all", "none")]
    stages = [FindFace(each, choose(each)) for each in settings]
    times = np.empty((RUNS, len(stages)))
    for run in range(RUNS):
        for which, stage in enumerate(stages):
            start = time.thread_time()
            stage(rows)
            times[run, which] = time.thread_time() - start
    with_measures, without = times.min(axis=0)
    return float(with_measures - without) / len(photos)


def stored(image: Image) -> bytes:
    """An image as a PNG."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def mirrored(measure: Measurer, faces: list[Posed]) -> NDArray[np.float64]:
    """How far the measures (faces, len(MEASURED)) of mirrored photos are from those of the photos."""
    photos = [face.photo for face in faces]
    values, others = measure(photos), measure([np.ascontiguousarray(photo[:, ::-1]) for photo in photos])
    exchanged = [MEASURED.index(MIRRORED.get(name, name)) for name in MEASURED]
    signs = [-1 if name in ("yaw", "roll") else 1 for name in MEASURED]
    return np.abs(others - signs * values[:, exchanged])


def table(found: dict[str, NDArray[np.float64]], apart: NDArray[np.float64]) -> rich.table.Table:
    """The table of all measures and edits, with a star where the edit is meant to change the measure.

    Args:
        found: what `measured` returned for each edit.
        apart: what `mirrored` returned.
    """
    made = rich.table.Table(box=None, pad_edge=False)
    made.add_column("measure")
    made.add_column("range", justify="right")
    for name in (*found, "mirrored"):
        made.add_column(name, justify="right")
    for at, measure in enumerate(MEASURED):
        span = span_of(found, measure, at)
        cells = (cell(values[..., at], span, name in OWN.get(measure, ())) for name, values in found.items())
        made.add_row(measure, f"{span:.3g}", *cells, f"{np.nanmedian(apart[:, at]) / span:.1%}")
    return made


def span_of(found: dict[str, NDArray[np.float64]], measure: str, at: int) -> float:
    """The range of a measure."""
    clean = np.concatenate([values[:, 0, at] for values in found.values()])
    own = [found[name][..., at].ravel() for name in OWN.get(measure, ())]
    low, high = np.nanpercentile(np.concatenate([clean, *own]), (1, 99))
    return float(high - low)


def cell(values: NDArray[np.float64], span: float, is_own: bool) -> str:
    """Correlation and change of a measure (faces, STEPS + 1) along an edit."""
    order = np.nanmedian([_spearman(line) for line in values])
    change = np.nanmedian(values[:, -1] - values[:, 0]) / span
    return f"{'*' if is_own else ''}{order:+.2f} {change:+.0%}"


def _spearman(line: NDArray[np.float64]) -> float:
    there = np.flatnonzero(~np.isnan(line))
    if len(there) < 3 or np.ptp(line[there]) == 0:
        return 0.0
    return float(spearmanr(there, line[there]).statistic)


def sheet(face: Posed, side: int = 160) -> Image:
    """All edits of a face, one in each row."""
    return np.vstack([np.hstack(list(_tiles(face, name, side))) for name in EDITS])


def _tiles(face: Posed, name: str, side: int) -> Iterator[Image]:
    for step in range(STEPS + 1):
        image = EDITS[name](face, step)
        scale = side / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
        tile = np.full((side, side, 3), 255, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small
        yield tile


if __name__ == "__main__":
    main()

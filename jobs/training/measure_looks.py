"""Measure what DB-CNN's score of a face does along ladders of distortions, and under harmless changes.

    python -m jobs.training.measure_looks PHOTOS… [--identities identity.csv] [--faces 40] [--weights FILE]

PHOTOS are photos with one face each that were not used for training. With `--identities`, a CSV file with the
columns image and identity, PHOTOS is a folder, and only people whom the training leaves out are measured. The
photos are shrunk to a longer side of at most 512 pixels and scored by all stages of the job.

The first table has a line for each of `train_ladders.LADDERS`: the median change of `dbcnn` over the faces at
each step, whether these medians fall from step to step, and the share of faces whose score at some step is
more than a point above that of the photo. A face that is not found any more does not count at that step.

The second table has the changes that should not matter: the mean change, the standard deviation of the
change, and the largest one.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import rich.console
import rich.table
from rich.progress import track

import faceq
from faceq.evaluation import distortions
from jobs.benchmarks.measure_edits import Image, is_single, photos_of, rows_of
from jobs.training.train_data import photos_of_people
from jobs.training.train_ladders import LADDERS, STEPS

LEEWAY = 1.0
"""Points by which a step may raise a score."""

Change = Callable[[Iterable[Image]], np.ndarray]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", help="images or folders of images, with one face each")
    parser.add_argument("--identities", type=Path, help="use only people whom the training leaves out")
    parser.add_argument("--faces", type=int, default=40, help="number of photos (40)")
    parser.add_argument("--weights", help="a DB-CNN-Lite to measure instead of the shipped one")
    options = parser.parse_args()
    models = {"quality": options.weights} if options.weights else {}
    scorer = faceq.Scorer(fiq_threshold=0, models=models)
    paths = options.photos
    if options.identities:
        people = photos_of_people(options.identities, Path(options.photos[0]), left_out=True)
        paths = [str(path) for path in people]
    photos = photos_of(paths, 2 * options.faces)
    pairs = zip(photos, rows_of(scorer, photos), strict=True)
    kept = [(photo, row["dbcnn"]) for photo, row in pairs if is_single(row)][: options.faces]
    faces, before = [photo for photo, _ in kept], np.array([score for _, score in kept])

    def change(photos: Iterable[Image]) -> np.ndarray:
        """The change of each face's score in edited photos, points; NaN if the face is not found."""
        rows = rows_of(scorer, list(photos))
        return np.array([np.nan if row["dbcnn"] is None else row["dbcnn"] for row in rows]) - before

    console = rich.console.Console()
    console.print(f"{len(faces)} faces, median dbcnn {np.median(before):.1f}")
    console.print(_ladder_table(faces, change))
    console.print(_stability_table(faces, change))


def _ladder_table(faces: list[Image], change: Change) -> rich.table.Table:
    table = _table("ladder", *map(str, range(1, STEPS + 1)), "falls", "some step rises")
    for name, ladder in track(LADDERS.items(), "ladders", transient=True):
        steps = range(1, STEPS + 1)
        changes = np.stack(
            [change(ladder(photo, step, seed) for seed, photo in enumerate(faces)) for step in steps]
        )
        medians = np.nanmedian(changes, axis=1)
        falls = bool((np.diff([0, *medians]) < 0).all())
        rises = float((np.nan_to_num(changes).max(axis=0) > LEEWAY).mean())
        table.add_row(
            name, *(f"{median:+.1f}" for median in medians), "yes" if falls else "no", f"{rises:.0%}"
        )
    return table


def _stability_table(faces: list[Image], change: Change) -> rich.table.Table:
    table = _table("harmless change", "mean", "sd", "largest")
    for name, edit in track(HARMLESS.items(), "harmless changes", transient=True):
        changes = change(map(edit, faces))
        changes = changes[~np.isnan(changes)]
        table.add_row(name, f"{changes.mean():+.2f}", f"{changes.std():.2f}", f"{np.abs(changes).max():.1f}")
    return table


def _table(first: str, *others: str) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def shifted(photo: Image, right: int, down: int) -> Image:
    """Move the photo, and repeat its edge where it has moved away from."""
    height, width = photo.shape[:2]
    moved = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return np.asarray(
        cv2.warpAffine(photo, moved, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def on_canvas(photo: Image) -> Image:
    """Put the photo on a grey canvas, 64 pixels wider on each side."""
    return np.pad(photo, ((64, 64), (64, 64), (0, 0)), constant_values=128)


HARMLESS: dict[str, Callable[[Image], Image]] = {
    "shifted by 1 pixel": lambda photo: shifted(photo, 1, 0),
    "shifted by 3 pixels": lambda photo: shifted(photo, 3, -3),
    "shifted by 8 pixels": lambda photo: shifted(photo, -8, 8),
    "mirrored": lambda photo: np.ascontiguousarray(photo[:, ::-1]),
    "on a canvas": on_canvas,
    "JPEG quality 95": lambda photo: distortions.jpeg(photo, 95),
}


if __name__ == "__main__":
    main()

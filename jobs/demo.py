"""The demo: score real faces that are degraded step by step. Scores must fall with each step.

    python -m jobs.demo [FOLDER]

The demo turns photos from installed packages into 384x384 frames in WebDataset shards: ladders of blur,
noise, JPEG, low light and low resolution, and frames without a face, with a face that is too small, and
with damaged bytes. The job scores the shards like any other input.
"""

import argparse
import io
import itertools
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import insightface
import numpy as np
import pyarrow as pa
import rich.console
import rich.table
import skimage
from scipy.stats import spearmanr

from faceq import config
from faceq.cli import logs
from faceq.cli.progress_line import ProgressLine
from faceq.errors import UsageError
from faceq.evaluation import distortions
from faceq.faces import detect, views
from faceq.job import pipeline, progress, summary
from faceq.models.fetch import fetch
from faceq.sources.decode.image import decode
from faceq.table.store import Table

FRAME_SIZE = 384
FACE_SHARE = 0.4
"""Longer side of the face's box divided by the side of the frame."""

DETECTION_SIDE = 640
"""Longer side, pixels, to which a photo is shrunk for face detection."""

JPEG_QUALITY = 95
SEVERITIES = range(6)
"""0 is the frame that is not degraded."""

# Severities 1 to 5. People notice weaker ones, but the recogniser sees a face shrunk to 112 pixels: a
# distortion that the shrinking removes does not change SER-FIQ.
STEPS: dict[str, tuple[float, ...]] = {
    "blur": (2.0, 3.5, 5.0, 6.5, 8.0),  # sigma, pixels
    "noise": (25.0, 40.0, 55.0, 70.0, 90.0),  # sigma, grey levels of 255
    "jpeg": (30, 14, 8, 5, 3),  # libjpeg quality
    "low_light": (1.0, 2.0, 3.0, 4.0, 5.0),  # halvings of the light
    "low_resolution": (1.5, 2.5, 4.0, 6.0, 9.0),  # factor by which each side shrinks
}
FRAMES_PER_SHARD = 64
SCORES = ("serfiq_raw", "dbcnn")
OUTPUTS = ("shards", "table", "astronaut.jpg")
"""What the demo writes to its folder."""


def main() -> int:
    """Make the shards, score them, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="demo", type=Path, help="default: demo")
    folder: Path = parser.parse_args().folder
    try:
        prepare_folder(folder)
    except UsageError as error:
        parser.error(str(error))
    with logs.shown() as shown:
        run(folder, ProgressLine(shown))
    return 0


def run(folder: Path, reporter: progress.Reporter) -> None:
    """Make the shards in an empty folder, score them, and print the results."""
    faces = source_faces()
    count = write_shards(folder / "shards", frames(faces))
    (folder / "astronaut.jpg").write_bytes(_jpeg(faces["astronaut"]))
    print(f"{count} frames in {folder / 'shards'}, from {len(faces)} faces")
    # Threshold 0: every face gets both scores, so that no ladder has gaps.
    places = {"input": [str(folder / "shards")], "out": str(folder / "table")}
    settings = config.build({**places, "fiq_threshold": 0})
    done = pipeline.score(settings, reporter=reporter)
    print(summary.text(done))
    falls = ladder_table(Table(str(folder / "table"), settings.s3).rows(["member", *SCORES]))
    print()
    rich.console.Console().print(falls)


def prepare_folder(folder: Path) -> None:
    """Create the folder, and delete the files of an earlier demo. Raises UsageError if files are not the
    demo's."""
    mark = folder / ".faceq-demo"
    there = [folder / name for name in OUTPUTS if (folder / name).exists()]
    if there and not mark.exists():
        raise UsageError(
            f"{there[0]}: already exists, and the demo did not write it: delete it, or name another folder"
        )
    for made in there:
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def source_faces() -> dict[str, np.ndarray]:
    """The eight faces that are not degraded: name to (384, 384, 3) uint8 RGB."""
    photos = Path(insightface.__file__).parent / "data" / "images"
    pictures = {
        "astronaut": skimage.data.astronaut(),
        "portrait": _with_margin(_rgb(photos / "Tom_Hanks_54745.png")),
        "group": _rgb(photos / "t1.jpg"),
    }
    detector = detect.YuNet(fetch("yunet"), threshold=0.6)
    found = {}
    for name, picture in pictures.items():
        shown = min(1.0, DETECTION_SIDE / max(picture.shape[:2]))
        faces = sorted(
            views.detect_in_view(detector, views.View.of(picture, shown), 0), key=lambda face: -face.area
        )
        for number, face in enumerate(faces if name == "group" else faces[:1]):
            found[f"{name}{number}" if name == "group" else name] = _frame_around(picture, face.box)
    return found


def frames(faces: dict[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """All frames of the demo as (file name, encoded bytes)."""
    for index, (name, face) in enumerate(faces.items()):
        yield _member(name, "", 0), _jpeg(face)
        for kind in STEPS:
            for severity in SEVERITIES[1:]:
                yield _member(name, kind, severity), _jpeg(degraded(face, kind, severity, seed=index))
    photos = Path(insightface.__file__).parent / "data" / "images"
    for photo in sorted(photos.glob("mask_*.jpg")):
        yield f"noface-{photo.stem}.jpg", _jpeg(cv2.resize(_rgb(photo), (FRAME_SIZE, FRAME_SIZE)))
    for name in ("astronaut", "group0", "group1"):
        yield f"small-{name}.jpg", _jpeg(_far_away(faces[name]))
    whole = _jpeg(faces["astronaut"])
    yield "broken-cutoff.jpg", whole[: len(whole) // 3]
    yield "broken-empty.jpg", b""
    yield "broken-text.jpg", b"<html>404 Not Found</html>"


def degraded(face: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """A frame (H, W, 3) uint8 RGB at severity 1...5 of a kind in STEPS. Noise and low light use the seed."""
    step = STEPS[kind][severity - 1]
    match kind:
        case "blur":
            return distortions.gaussian_blur(face, step)
        case "noise":
            return distortions.white_noise(face, step, seed)
        case "low_light":
            return distortions.low_light(face, step, seed)
        case "low_resolution":
            return distortions.low_resolution(face, step)
    return distortions.jpeg(face, int(step))


def write_shards(folder: Path, members: Iterator[tuple[str, bytes]], each: int = FRAMES_PER_SHARD) -> int:
    """Write members into numbered tar shards with `each` members per shard; returns the number of members."""
    folder.mkdir(parents=True)
    count = 0
    shards = iter(lambda: list(itertools.islice(members, each)), [])
    for index, waiting in enumerate(shards):
        with tarfile.open(folder / f"{index:05d}.tar", "w") as shard:
            for name, data in waiting:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
                count += 1
    return count


def ladder_table(rows: pa.Table) -> rich.table.Table:
    """Mean scores over the faces by severity for each kind of ladder, and their `correlation`."""
    scores = {row["member"]: row for row in rows.to_pylist()}
    names = sorted({member.split("-")[0] for member in scores if "-sharp-" in member})
    table = rich.table.Table(title="Scores along the ladders (mean over faces)", box=None, pad_edge=False)
    for title in ("ladder", "score", *(f"{s}" for s in SEVERITIES), "Spearman"):
        table.add_column(title, justify="left" if title in ("ladder", "score") else "right")
    for kind in STEPS:
        for score in SCORES:
            digits = 3 if score == "serfiq_raw" else 1
            means = np.nanmean(_grid(scores, names, kind, score), axis=0)
            steps = [f"{value:.{digits}f}" for value in means]
            table.add_row(kind, score, *steps, f"{correlation(scores, names, kind, score):+.2f}")
    return table


def correlation(scores: Mapping[str, Any], names: Sequence[str], kind: str, score: str) -> float:
    """Spearman's correlation between severity and score, averaged over faces: -1 if the score falls at each
    step. `scores`: rows of the table by member name. Severities without a found face do not count."""
    lines = _grid(scores, names, kind, score)
    steps = np.array(SEVERITIES)
    each = [spearmanr(steps[~np.isnan(line)], line[~np.isnan(line)]).statistic for line in lines]
    return float(np.mean(each))


def _grid(scores: Mapping[str, Any], names: Sequence[str], kind: str, score: str) -> np.ndarray:
    """(faces, severities) float64, NaN for a face that was not found."""
    lines = [[scores[_member(name, kind, s)][score] for s in SEVERITIES] for name in names]
    return np.array(lines, np.float64)


def _member(name: str, kind: str, severity: int) -> str:
    return f"{name}-{kind}-{severity}.jpg" if severity else f"{name}-sharp-0.jpg"


def _rgb(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), max_pixels=10_000_000)


def _jpeg(image: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _with_margin(face: np.ndarray) -> np.ndarray:
    """An image filled by its face, with a margin of half its height on each side that repeats its edge."""
    margin = face.shape[0] // 2
    return cv2.copyMakeBorder(face, margin, margin, margin, margin, cv2.BORDER_REPLICATE)


def _frame_around(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A square frame around a face's box. Outside the image, the frame repeats the edge of the image."""
    x, y, width, height = box
    side = round(float(max(width, height)) / FACE_SHARE)
    left, top = round(float(x + width / 2) - side / 2), round(float(y + height / 2) - side / 2)
    padded = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REPLICATE)
    frame = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    shrinks = side > FRAME_SIZE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(frame, (FRAME_SIZE, FRAME_SIZE), interpolation=how)


def _far_away(face: np.ndarray) -> np.ndarray:
    """The frame shrunk to a fifth, on grey: its face is about 31 pixels high."""
    small = cv2.resize(face, None, fx=1 / 5, fy=1 / 5, interpolation=cv2.INTER_AREA)
    canvas = np.full_like(face, 128)
    top = (FRAME_SIZE - len(small)) // 2
    canvas[top : top + len(small), top : top + len(small)] = small
    return canvas


if __name__ == "__main__":
    sys.exit(main())

"""Measure how well faces are found if they are tilted, rotated, small, in large images, cut off, or shifted.

    python -m jobs.benchmarks.measure_find DATA [--faces 60]

DATA holds `celeba_dev/images`, `live_challenge/images` and `kodak24`. All figures come from the stages of the
job, run on modified copies of photos, so that the same script measures other versions of faceq.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from faceq import config
from faceq.sources.decode import image
from faceq.sources.frame import Frame, in_batches, to_table
from faceq.stages import scorer

CANVASES = {"384x384": (384, 384), "1080p": (1920, 1080), "4K": (3840, 2160), "24 MP": (6000, 4000)}
TURNS = (0, 10, 20, 30, 45, 60, 75, 90, 180, 270)
SHIFTS = (-8, -5, -2, 0, 3, 8)
Row = dict[str, Any]


class Scorer:
    """The stages of the job in one process. Every face gets all scores."""

    def __init__(self) -> None:
        self._stages = scorer.stages_of(config.build({"fiq_threshold": 0}))

    def __call__(self, pictures: Iterable[np.ndarray]) -> list[Row]:
        """Rows of images (H, W, 3) uint8 RGB."""
        rows = []
        frames = (Frame(str(number), None, 0, _bmp(picture)) for number, picture in enumerate(pictures))
        for some in in_batches(frames):  # a mini-batch takes as long for one face as for several
            batch = to_table(some)
            for stage in self._stages:
                batch = stage(batch)
            rows += batch.to_pylist()
        return rows

    def cpu(self, picture: np.ndarray, repeats: int = 7) -> float:
        """CPU time of finding the face, decoding included, in milliseconds: the minimum of several runs."""
        batch, spent = to_table([Frame("0", None, 0, _bmp(picture))]), []
        for _ in range(repeats):
            before = time.process_time()
            self._stages[0](batch)
            spent.append(time.process_time() - before)
        return 1000 * min(spent)


def main() -> int:
    """Print one table per measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--faces", type=int, default=60, help="photos of celeba_dev (60)")
    options = parser.parse_args()
    score = Scorer()
    paths = sorted((options.data / "celeba_dev" / "images").glob("*.jpg"))
    photos = [_read(path) for path in paths[:: max(1, len(paths) // options.faces)]]
    known = [(photo, row) for photo, row in zip(photos, score(photos), strict=True) if _has(row)]
    print(f"{len(known)} photos with a scored face")
    for measure in (_cost, _shifts, _cuts, _small, _canvas, _turned):
        measure(score, known)
    for folder in ("live_challenge/images", "kodak24"):
        places = sorted((options.data / folder).iterdir())
        found = score(_read(path) for path in places[:: max(1, len(places) // 200)])
        print(f"{folder}: {sum(map(_has, found))} of {len(found)} frames have a scored face", flush=True)
    return 0


def _turned(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("rotated by: found, median |roll error|, share with serfiq at most .05 below the upright photo's")
    for turn in TURNS:
        rows = score(_rotated(photo, turn) for photo, _ in known)
        pairs = [(row, one) for row, (_, one) in zip(rows, known, strict=True) if _has(row)]
        away = [abs((_tilt(row) - _tilt(one) - turn + 180) % 360 - 180) for row, one in pairs]
        near = sum(row["serfiq"] > one["serfiq"] - 0.05 for row, one in pairs)
        print(f"  {turn:3}: {len(pairs)}, {np.median(away):.1f}, {near / len(known):.0%}", flush=True)


def _small(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("faces scaled to 41 pixels and pasted on a canvas: recall")
    chance = np.random.default_rng(0)
    for name, size in CANVASES.items():
        hits, tried = 0, 0
        for photo, row in known[:40]:
            scale = 41 / min(row["face_w"], row["face_h"])
            small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            if scale > 1 or (np.array(small.shape[1::-1]) > size).any():
                continue
            at = (chance.random(2) * (np.array(size) - small.shape[1::-1])).astype(int)
            (found,) = score([_pasted(small, size, at)])
            centre = at + scale * _centre(row)
            tried += 1
            hits += found["face_x"] is not None and np.abs(_centre(found) - centre).max() < 15
        print(f"  {name}: {hits} of {tried}", flush=True)


def _canvas(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("pasted unscaled on a canvas of this width: mean and maximum |change of serfiq|")
    for width in (1280, 2560, 5120):
        some = [(photo, row) for photo, row in known[:30] if max(photo.shape) < width * 0.75]
        rows = score(_pasted(photo, (width, width * 3 // 4), np.array([50, 70])) for photo, _ in some)
        away = [abs((new["serfiq"] or 0) - row["serfiq"]) for new, (_, row) in zip(rows, some, strict=True)]
        print(f"  {width}: {np.mean(away):.3f}, {np.max(away):.3f}", flush=True)


def _cuts(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("face cut off on one side: mean change of dbcnn, 90th percentile of |change|, number of faces")
    for share in (0.2, 0.4):
        for side in ("left", "right", "above", "below"):
            rows = score(_cut(photo, row, share, side) for photo, row in known)
            away = [
                new["dbcnn"] - row["dbcnn"] for new, (_, row) in zip(rows, known, strict=True) if _has(new)
            ]
            told = f"{np.mean(away):+.1f}, {np.quantile(np.abs(away), 0.9):.1f}, {len(away)}"
            print(f"  {share:.0%} {side}: {told}", flush=True)


def _shifts(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("shifted by up to 8 pixels, and mirrored: mean standard deviation")
    spread: dict[str, list[float]] = {"dbcnn": [], "serfiq": [], "yaw": []}
    for photo, _ in known[:30]:
        copies = [np.roll(photo, (step, -step), (0, 1)) for step in SHIFTS]
        rows = [row for row in score([*copies, photo[:, ::-1].copy()]) if _has(row)]
        if len(rows) == len(SHIFTS) + 1:
            rows[-1]["yaw"] *= -1
            for name, found in spread.items():
                found.append(float(np.std([row[name] for row in rows])))
    print("  " + ", ".join(f"{name} {np.mean(found):.4f}" for name, found in spread.items()), flush=True)


def _cost(score: Scorer, known: list[tuple[np.ndarray, Row]]) -> None:
    print("find_face: CPU time per frame, milliseconds (median over photos)")
    for name, size in {"384x384": (384, 384), "1024x1024": (1024, 1024), "4K": (3840, 2160)}.items():
        photos = [_fitted(photo, size) for photo, _ in known[:12]]
        print(f"  {name}: {np.median([score.cpu(photo) for photo in photos]):.1f}", flush=True)


def _has(row: Row) -> bool:
    return row["dbcnn"] is not None


def _tilt(row: Row) -> float:
    left, right = np.reshape(row["landmarks"], (5, 2))[:2]
    return float(np.degrees(np.arctan2(*(right - left)[::-1])))


def _centre(row: Row) -> np.ndarray:
    return np.array([row["face_x"] + row["face_w"] / 2, row["face_y"] + row["face_h"] / 2])


def _rotated(photo: np.ndarray, turn: int) -> np.ndarray:
    """The whole photo rotated clockwise, on a grey background."""
    height, width = photo.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -turn, 1)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_CUBIC, borderValue=(128, 128, 128))


def _pasted(photo: np.ndarray, size: tuple[int, int], at: np.ndarray) -> np.ndarray:
    canvas = np.full((size[1], size[0], 3), 128, np.uint8)
    x, y = at
    canvas[y : y + photo.shape[0], x : x + photo.shape[1]] = photo[: size[1] - y, : size[0] - x]
    return canvas


def _fitted(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scale = min(size[0] / photo.shape[1], size[1] / photo.shape[0])
    inner = (int(photo.shape[1] * scale), int(photo.shape[0] * scale))
    return _pasted(cv2.resize(photo, inner, interpolation=cv2.INTER_AREA), size, np.array([0, 0]))


def _cut(photo: np.ndarray, row: Row, share: float, side: str) -> np.ndarray:
    x, y, width, height = (row[f"face_{name}"] for name in "xywh")
    left, right = round(x + share * width), round(x + (1 - share) * width)
    top, low = round(y + share * height), round(y + (1 - share) * height)
    parts = {"left": photo[:, left:], "right": photo[:, :right], "above": photo[top:], "below": photo[:low]}
    return np.ascontiguousarray(parts[side])


def _read(path: Path) -> np.ndarray:
    return image.decode(path.read_bytes(), 100_000_000)


def _bmp(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "BMP")
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""Faces for the training of DB-CNN-Lite: real faces, each with a ladder of a degradation.

    python -m jobs.training.cut_faces --data DIR --out FOLDER [--ladders 4000]

DIR holds `celeba_dev/` (images/, identity.csv), `portraits_1024/` and `videos/`. The people of a fifth of the
identities, chosen by a hash, are left out, and so is a fifth of the portraits: they are for measurements. The
script writes `faces.npy` and `faces.npz` to FOLDER.

A photo is scaled to a longer side of at most 512 pixels. The face is found by the job's own finder in the
clean photo. The part of the photo around the face is degraded, and then cropped like the job crops it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from faceq.config import Config
from faceq.evaluation.distortions import Image, jpeg
from faceq.faces import detect, geometry, landmarks
from faceq.faces.finder import Finder, is_face
from faceq.runtime.threads import limit_threads
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import quality_matrix
from jobs.benchmarks.measure_edits import shrunk
from jobs.training.train_data import (
    CROPS,
    FACE_LABELS,
    FACES,
    RUNGS,
    photos_of_people,
    portraits,
    read_rgb,
)
from jobs.training.train_ladders import KINDS, STEPS

SEED = 20261130
PHOTO_SIDE = 512  # longest side of a photo, pixels
SMALLER, SMALLEST_SIDE = 0.4, 260  # share of the ladders whose photo is scaled down further, and how far
FRAMES_BETWEEN = 15  # frames of a video that are skipped between two that are used
PORTRAIT_COPIES = 3  # portraits are few, and sharper than the other photos
LEAST_FACE = 50  # pixels

MARGIN = 24  # pixels around the crop that are degraded too, so that a filter has no edge inside the crop
LEAST_MASK = 2_000  # pixels of a crop inside the outline of the face

# How far a moved crop lies from the clean one: it must get the same score.
TURN, STRETCH, SHIFT = 0.02, 0.015, 2.0  # standard deviations: radians, logarithm, pixels of the crop
MOVED_RUNGS = 0.3  # share of the degraded crops that are moved too
OTHER_AROUND = 0.5  # share of the ladders whose surroundings are degraded at other steps than the face
SEAM = 2.0  # sigma, pixels, of the edge between them, which must not be another distortion
RESAVED = 0.4  # share of the second clean crops that are saved as JPEG
RESAVED_QUALITY = 95


def photos(data: Path) -> list[Path]:
    """The photos of people who are not left out."""
    celeba = data / "celeba_dev"
    people = photos_of_people(celeba / "identity.csv", celeba / "images", left_out=False)
    return people + PORTRAIT_COPIES * portraits(data, left_out=False)


def frames(data: Path) -> Iterator[Image]:
    """Some frames of each video, (H, W, 3) uint8 RGB."""
    for path in sorted((data / "videos").glob("*.mp4")):
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % (1 + FRAMES_BETWEEN) == 0:
                    yield np.asarray(frame.to_ndarray(format="rgb24"))


def pictures(data: Path) -> list[Image]:
    """All `photos` and `frames`, (H, W, 3) uint8 RGB."""
    return [read_rgb(path) for path in photos(data)] + list(frames(data))


@dataclass(frozen=True)
class Face:
    """The part of a photo around a face, the map (2, 3) from it to the crop, and the outline (N, 2) in it."""

    part: Image
    matrix: NDArray[np.float64]
    outline: NDArray[np.float64]

    def crop(self, part: Image, moved: np.random.Generator | None) -> tuple[Image, NDArray[np.bool_]]:
        """The crop and the mask of `part`, this one or a degraded one. `moved`: move it at random."""
        matrix = self.matrix
        if moved is not None:
            angle, stretch = moved.normal(0, TURN), np.exp(moved.normal(0, STRETCH))
            middle = (geometry.CROP_SIZE - 1) / 2
            move = np.asarray(
                cv2.getRotationMatrix2D((middle, middle), np.degrees(angle), stretch), np.float64
            )
            move[:, 2] += moved.normal(0, SHIFT, 2)
            matrix = np.column_stack([move[:, :2] @ matrix[:, :2], move[:, :2] @ matrix[:, 2] + move[:, 2]])
        corners = geometry.from_frame(geometry.frame_corners(part.shape[1], part.shape[0]), matrix)
        outline = geometry.clipped(geometry.from_frame(self.outline, matrix), corners)
        return geometry.crop(part, matrix), geometry.polygon_mask(outline, geometry.CROP_SIZE) > 0

    def amid(self, part: Image, surroundings: Image) -> Image:
        """`part` inside the outline, with a margin, and `surroundings` outside."""
        inside = np.zeros(part.shape[:2], np.float32)
        cv2.fillPoly(inside, [np.round(self.outline).astype(np.int32)], 1.0)
        soft = cv2.GaussianBlur(cv2.dilate(inside, np.ones((9, 9))), (0, 0), SEAM)[..., None]
        return np.rint(part * soft + surroundings * (1 - soft)).astype(np.uint8)


class FaceCutter:
    """Finds faces like the first stage of the job."""

    def __init__(self) -> None:
        settings = Config()
        models = choose(settings)
        detector = detect.load(models.path("detector"), settings.det_threshold, "cpu", 1, None)
        self._find = Finder(detector, landmarks.load(models.path("landmarks"), "cpu", 1, None), LEAST_FACE)
        self._outline = models.preset.outline

    def __call__(self, photo: Image) -> Face | None:
        """The face of a photo, if it has one that is large enough."""
        found = self._find(photo)
        if found is None or not is_face(found) or found.face.box[2:].min() < LEAST_FACE:
            return None
        matrix = quality_matrix(found)
        side = geometry.CROP_SIZE
        corners = geometry.to_frame(geometry.frame_corners(side, side), matrix)
        low = np.maximum(np.floor(corners.min(axis=0)) - MARGIN, 0).astype(int)
        high = np.minimum(np.ceil(corners.max(axis=0)) + MARGIN, photo.shape[1::-1]).astype(int)
        part = np.ascontiguousarray(photo[low[1] : high[1], low[0] : high[0]])
        moved = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ low])
        face = Face(part, moved, found.dense.outline(self._outline) - low)
        return face if face.crop(part, None)[1].sum() >= LEAST_MASK else None


def endless_faces(cut: FaceCutter, photos: list[Image], rng: np.random.Generator) -> Iterator[Face]:
    """The faces of all photos in random order, again and again, in photos of different sizes."""
    while True:
        found = 0
        for at in rng.permutation(len(photos)):
            smaller = rng.random() < SMALLER
            side = int(rng.integers(SMALLEST_SIDE, PHOTO_SIDE)) if smaller else PHOTO_SIDE
            face = cut(shrunk(photos[at], side))
            if face is not None:
                found += 1
                yield face
        if not found:
            raise ValueError(f"train: none of {len(photos)} photos has a face that is large enough")


def ladder_of(
    face: Face, kind: str, rng: np.random.Generator
) -> tuple[list[Image], list[NDArray[np.bool_]], list[float]]:
    """The CROPS crops of a face, their masks, and `Kind.falls` at each."""
    chosen = KINDS[kind]
    whole = 1 + rng.choice(STEPS, RUNGS, replace=False)
    steps = np.sort(np.minimum(whole + rng.uniform(0, 0.9, RUNGS), STEPS))
    seed = int(rng.integers(2**31))
    again = jpeg(face.part, RESAVED_QUALITY) if rng.random() < RESAVED else face.part
    made = [face.crop(face.part, None), face.crop(again, rng)]
    parts = [chosen.degrade(face.part, float(step), seed) for step in steps]
    around = [face.part, *parts] if rng.random() < OTHER_AROUND else []
    for part in parts:
        seen = face.amid(part, around[rng.integers(len(around))]) if around else part
        made.append(face.crop(seen, rng if rng.random() < MOVED_RUNGS else None))
    falls = [0.0, 0.0, *np.interp(steps, range(1, STEPS + 1), chosen.falls).tolist()]
    return [crop for crop, _ in made], [mask for _, mask in made], falls


def main() -> None:
    """Write the ladders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the three sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for faces.npy and faces.npz")
    parser.add_argument("--ladders", type=int, default=4000, help="number of ladders (4000)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cut = FaceCutter()
    rng = np.random.default_rng(SEED)
    taken = pictures(options.data)
    print(f"{len(taken)} photos and frames", flush=True)
    shares = np.array([kind.share for kind in KINDS.values()])
    size = geometry.CROP_SIZE
    shape = (options.ladders, CROPS, size, size, 3)
    crops = np.lib.format.open_memmap(options.out / FACES, "w+", np.uint8, shape)
    masks = np.zeros((*shape[:3], size // 8), np.uint8)
    falls = np.zeros(shape[:2], np.float32)
    kinds = rng.choice(len(KINDS), options.ladders, p=shares / shares.sum())
    found = endless_faces(cut, taken, rng)
    with limit_threads(1):
        for row, face in zip(track(range(options.ladders), "ladders"), found, strict=False):
            made = ladder_of(face, list(KINDS)[kinds[row]], rng)
            crops[row], masks[row], falls[row] = made[0], np.packbits(np.stack(made[1]), axis=-1), made[2]
    crops.flush()
    np.savez(options.out / FACE_LABELS, masks=masks, falls=falls)


if __name__ == "__main__":
    main()

"""Training data of DB-CNN-Lite: rated images, pristine images, degraded images, and masks."""

from __future__ import annotations

import csv
import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceq.evaluation.distortions import Image
from faceq.iqa.dbcnn_lite import VIEW_SIDE
from jobs.training.train_distortions import NAMED, RANKED, degraded

PRISTINE_FROM_LIVE = 100
"""Number of best-rated training images that are used as pristine images, in addition to Kodak's."""

NAMING_BATCH, NAMING_SIDE, NAMING_DEGRADED_SIDE = 64, 112, 256
CROPS_OF_ONE = 4
"""Crops per degraded image: degrading an image takes longer than a training step on it."""

FACE_SIDE = 256
"""Side, pixels, at which faces are scored."""

RUNGS = 4
MINIMUM_STEP = 0.08
"""Minimum difference between the severities (0..1) of two steps of a ladder."""

Item = TypeVar("Item")

_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Rated:
    """Rated images: names, RGB uint8 images, and (N,) float32 ratings 0..100."""

    names: list[str]
    images: list[Image]
    ratings: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_]) -> Rated:
        where = np.flatnonzero(keep)
        return Rated([self.names[i] for i in where], [self.images[i] for i in where], self.ratings[where])


def read_rgb(path: Path) -> Image:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"train: {path} is missing or is not an image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_rated(folder: Path) -> Rated:
    with (folder / "mos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["image"] for row in rows]
    images = [read_rgb(folder / "images" / name) for name in names]
    return Rated(names, images, np.array([row["mos"] for row in rows], np.float32))


def is_held_out(name: str) -> bool:
    """True for a fifth of all names, the same on every machine and for every version of the data."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 5 == 0


def read_pristine(data: Path, rated: Rated) -> list[Image]:
    """Kodak's images, the best-rated images, and two images that scikit-image ships."""
    pictures = [read_rgb(path) for path in sorted((data / "kodak24").glob("*.png"))]
    best = np.argsort(-rated.ratings, kind="stable")[:PRISTINE_FROM_LIVE]
    return [*pictures, *(rated.images[i] for i in best), skimage.data.coffee(), skimage.data.chelsea()]


def resize(image: Image, side: int) -> Image:
    """Resize to a square of `side` pixels, by area when shrinking, which avoids aliasing."""
    smaller = side < min(image.shape[:2])
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)


def random_crop(image: Image, side: int, rng: np.random.Generator) -> Image:
    """A square of `side` pixels, or the largest that fits, mirrored half of the time."""
    side = min(side, *image.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    crop = image[top : top + side, left : left + side]
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def ellipse_mask(
    side: int, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.float32]:
    """(side, side) float32, 1 inside the ellipse. Centre and radii (x, y) are fractions of the side."""
    mask = np.zeros((side, side), np.float32)
    at, axes = (tuple(round(side * part) for part in pair) for pair in (centre, radii))
    cv2.ellipse(mask, at, axes, angle, 0, 360, 1.0, thickness=-1)
    return mask


def random_ellipse(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """An ellipse about as large as a face in its crop."""
    x, y, wide, high = rng.uniform((0.4, 0.4, 0.25, 0.25), (0.6, 0.6, 0.5, 0.5))
    return ellipse_mask(side, (x, y), (wide, high), rng.uniform(0, 180))


def to_tensor(images: list[Image]) -> Tensor:
    """(N, 3, H, W) float32, 0..1."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels.contiguous(memory_format=torch.channels_last)


class NamingBatches(Dataset[tuple[Tensor, Tensor]]):
    """Small crops, each with one of the 39 distortions, and the number of this distortion.

    Item i of an epoch depends only on the seed, the epoch and i, so that a resumed run sees the same items.
    """

    def __init__(self, pristine: list[Image], seed: int, epoch: int, steps: int) -> None:
        self.pristine, self.seed, self.epoch, self.steps = pristine, seed, epoch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 1, self.epoch, index))
        crops: list[Image] = []
        names: list[int] = []
        for name in rng.integers(0, len(NAMED), NAMING_BATCH // CROPS_OF_ONE):
            picture = self.pristine[rng.integers(len(self.pristine))]
            part = random_crop(picture, NAMING_DEGRADED_SIDE, rng)
            part = NAMED[name](part, int(rng.integers(2**31)))
            crops += [random_crop(part, NAMING_SIDE, rng) for _ in range(CROPS_OF_ONE)]
            names += [int(name)] * CROPS_OF_ONE
        return to_tensor(crops), torch.tensor(names)


@dataclass(frozen=True)
class Ladder:
    """One crop, degraded in steps of rising severity.

    images: RUNGS of (FACE_SIDE, FACE_SIDE, 3) uint8 RGB. mask: (FACE_SIDE, FACE_SIDE) float32. severities:
    (RUNGS,) float32, rising from 0 (pristine) to 1.
    """

    images: list[Image]
    mask: NDArray[np.float32]
    severities: NDArray[np.float32]


class RatedBatches(Dataset[tuple[Tensor, Tensor]]):
    """An epoch of rated images in random order: a random square crop of each, and the rating of the image.

    Crops are not resized. Item i depends only on the seed, the epoch and i.
    """

    def __init__(self, rated: Rated, seed: int, epoch: int, batch: int) -> None:
        self.rated, self.seed, self.epoch, self.batch = rated, seed, epoch, batch
        self.order = np.random.default_rng((seed, 3, epoch)).permutation(len(rated.names))

    def __len__(self) -> int:
        return len(self.order) // self.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, 4, self.epoch, index))
        chosen = self.order[index * self.batch : (index + 1) * self.batch]
        crops = [random_crop(self.rated.images[i], VIEW_SIDE, rng) for i in chosen]
        return to_tensor(crops), torch.from_numpy(self.rated.ratings[chosen])


class Ladders(Dataset[Ladder]):
    """Crops degraded at their original size, then resized to FACE_SIDE, because real faces are degraded at
    the size at which they were recorded.

    Half of the crops have an elliptical mask. Outside the mask they are degraded independently, which must
    not change the score. The others have no mask. `reach`: the maximum severity.
    """

    def __init__(self, pristine: list[Image], seed: int, epoch: int, count: int, reach: float = 1.0) -> None:
        self.pristine, self.seed, self.epoch, self.count, self.reach = pristine, seed, epoch, count, reach

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Ladder:
        rng = np.random.default_rng((self.seed, 2, self.epoch, index))
        picture = self.pristine[rng.integers(len(self.pristine))]
        crop = random_crop(picture, int(rng.integers(200, 450)), rng)
        kind, seed = RANKED[index % len(RANKED)], int(rng.integers(2**31))
        severities = self.reach * _severities(rng)
        rungs = [resize(degraded(crop, kind, float(s), seed), FACE_SIDE) for s in severities]
        if index // len(RANKED) % 2:
            return Ladder(rungs, np.ones((FACE_SIDE, FACE_SIDE), np.float32), severities)
        mask = random_ellipse(FACE_SIDE, rng)
        # The seam is soft, because a hard edge would be another distortion.
        seam = cv2.GaussianBlur(cv2.dilate(mask, np.ones((9, 9))), (0, 0), 2)[..., None]
        around = [self._around(crop, rng) for _ in rungs]
        mixed = [
            np.rint(rung * seam + other * (1 - seam)).astype(np.uint8)
            for rung, other in zip(rungs, around, strict=True)
        ]
        return Ladder(mixed, mask, severities)

    @staticmethod
    def _around(crop: Image, rng: np.random.Generator) -> Image:
        kind, severity = RANKED[rng.integers(len(RANKED))], max(0.0, float(rng.uniform(-0.3, 1)))
        return resize(degraded(crop, kind, severity, int(rng.integers(2**31))), FACE_SIDE)


class LadderBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of `each` ladders: rungs (each * RUNGS, 3, FACE_SIDE, FACE_SIDE) float32 0..1, their masks
    (each * RUNGS, 1, FACE_SIDE, FACE_SIDE), and severities (each, RUNGS)."""

    def __init__(
        self, pristine: list[Image], seed: int, epoch: int, steps: int, each: int, reach: float = 1.0
    ) -> None:
        self.ladders = Ladders(pristine, seed, epoch, steps * each, reach)
        self.each = each

    def __len__(self) -> int:
        return len(self.ladders) // self.each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        ladders = [self.ladders[index * self.each + i] for i in range(self.each)]
        rungs = to_tensor([rung for ladder in ladders for rung in ladder.images])
        masks = torch.from_numpy(np.stack([ladder.mask for ladder in ladders]))
        severities = torch.from_numpy(np.stack([ladder.severities for ladder in ladders]))
        return rungs, masks.repeat_interleave(RUNGS, 0)[:, None], severities


def _severities(rng: np.random.Generator) -> NDArray[np.float32]:
    """RUNGS severities that differ by at least MINIMUM_STEP. Half of the time the first one is 0."""
    room = 1 - MINIMUM_STEP * (RUNGS - 1)
    values = np.sort(rng.uniform(0, room, RUNGS)) + MINIMUM_STEP * np.arange(RUNGS)
    if rng.random() < 0.5:
        values[0] = 0
    return values.astype(np.float32)


def prefetched(dataset: Dataset[Item]) -> Iterator[Item]:
    """Items in order, prepared ahead of time by another process."""
    give_back_freed_memory()  # or the other process would keep a copy of it
    yield from DataLoader(dataset, batch_size=None, num_workers=1, worker_init_fn=_start_maker)


def _start_maker(_: int) -> None:
    cv2.setNumThreads(0)
    keep_freed_memory(False)


def keep_freed_memory(keep: bool) -> None:
    """Set whether glibc keeps the memory that this process frees. By default it returns it to the system.

    A training step frees and allocates gigabytes. By default, glibc maps these blocks anew each time, which
    costs a page fault for every 4 KiB. On one core, a step with 16 images in single precision took 7.5 s that
    way, and 3.6 s with memory that is kept.
    """
    if hasattr(_LIBC, "mallopt"):  # other C libraries have no such function
        m_trim_threshold, m_mmap_max = -1, -4
        _LIBC.mallopt(m_mmap_max, 0 if keep else 65_536)
        _LIBC.mallopt(m_trim_threshold, 2**31 - 1 if keep else 128 << 10)


def give_back_freed_memory() -> None:
    """Return the freed memory that was kept so far to the system."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)

"""Training data of DB-CNN-Lite: rated images, views that a teacher labels, and ladders of degraded faces."""

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
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceq.evaluation.distortions import Image
from faceq.iqa.dbcnn_lite import VIEW_SIDE

FACE_SIDE = 256
"""Side, pixels, at which faces are scored."""

FACES, FACE_LABELS = "faces.npy", "faces.npz"
"""Files of `FaceLadders`."""

VIEWS, VIEW_SOURCES = "views.npy", "views.npz"
"""Files of `Views`."""

RUNGS = 3
"""Degraded crops of a ladder, in addition to the two clean ones."""

CROPS = 2 + RUNGS

FOLDS = 5
"""Parts of the rated images in cross-validation."""

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


def fold_of(name: str) -> int:
    """One of FOLDS parts of all names, the same on every machine and for every version of the data."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % FOLDS


def is_held_out(name: str) -> bool:
    """True for a fifth of all names."""
    return fold_of(name) == 0


def portraits(data: Path, left_out: bool) -> list[Path]:
    """The portraits that trainings leave out, or the others."""
    paths = sorted((data / "portraits_1024").glob("*.jpg"))
    return [path for path in paths if is_held_out(path.name) == left_out]


def photos_of_people(identities: Path, photos: Path, left_out: bool) -> list[Path]:
    """The photos in a folder of the people whom trainings leave out, or of the others.

    `identities`: a CSV file with the columns image and identity.
    """
    with identities.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [photos / row["image"] for row in rows if is_held_out(row["identity"]) == left_out]


def resize(image: Image, side: int) -> Image:
    """Resize to a square of `side` pixels, by area when shrinking, which avoids aliasing."""
    smaller = side < min(image.shape[:2])
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)


def random_crop(image: Image, side: int, rng: np.random.Generator) -> Image:
    """A square of `side` pixels, or the largest that fits, mirrored half of the time."""
    side = min(side, *image.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return mirrored_half(image[top : top + side, left : left + side], rng)


def mirrored_half(image: Image, rng: np.random.Generator) -> Image:
    """The image, mirrored half of the time."""
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)


def to_tensor(images: list[Image]) -> Tensor:
    """(N, 3, H, W) float32, 0..1."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Views:
    """Views (M, 384, 384, 3) uint8 RGB that `cut_views` wrote, and for each the position of the rated image
    that it shows, or -1; (M,) int64."""

    images: NDArray[np.uint8]
    sources: NDArray[np.int64]


def read_views(folder: Path) -> Views:
    """What `cut_views` wrote to a folder; views are read when they are needed."""
    with np.load(folder / VIEW_SOURCES) as file:
        return Views(np.load(folder / VIEWS, mmap_mode="r"), file["sources"])


@dataclass(frozen=True)
class LabelledViews:
    """Some of the `Views`, and the scores (M,) float32 that all of them must get, which a teacher gave.

    usable: (K,), the positions of those that show no image that is held out.
    """

    views: Views
    labels: NDArray[np.float32]
    usable: NDArray[np.int64]


class RatedBatches(Dataset[tuple[Tensor, Tensor]]):
    """An epoch of rated images in random order: a random square crop of each, and the rating of the image.

    Crops are not resized. With `views`, a second half of each batch is these and their labels, in random
    order, starting anew when all have been seen. Item i depends only on the seed, the epoch and i.
    """

    def __init__(
        self, rated: Rated, seed: int, epoch: int, batch: int, views: LabelledViews | None = None
    ) -> None:
        self.rated, self.seed, self.epoch, self.views = rated, seed, epoch, views
        self.each = batch if views is None else batch // 2
        self.order = np.random.default_rng((seed, 3, epoch)).permutation(len(rated.names))
        if views is not None:
            usable = np.random.default_rng((seed, 6)).permutation(views.usable)
            self.view_order = np.roll(usable, -epoch * len(self) * self.each)

    def __len__(self) -> int:
        return len(self.order) // self.each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, 4, self.epoch, index))
        places = np.arange(index * self.each, (index + 1) * self.each)
        chosen = self.order[places]
        crops = [random_crop(self.rated.images[i], VIEW_SIDE, rng) for i in chosen]
        wanted = self.rated.ratings[chosen]
        if self.views is not None:
            seen = self.view_order[places % len(self.view_order)]
            crops += [mirrored_half(self.views.views.images[i], rng) for i in seen]
            wanted = np.concatenate([wanted, self.views.labels[seen]])
        return to_tensor(crops), torch.from_numpy(wanted)


@dataclass(frozen=True)
class FaceLadders:
    """Crops of N faces: each clean, clean again but moved or saved as JPEG, and at RUNGS steps of one kind of
    distortion.

    crops: (N, CROPS, 256, 256, 3) uint8 RGB. masks: (N, CROPS, 256, 32) uint8, a bit for each pixel, 1 inside
    the face. falls: (N, CROPS) float32, `Kind.falls` at the step of each crop, 0 for the clean ones.
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    falls: NDArray[np.float32]

    def tensors(self, rows: NDArray[np.int64], crops: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """The images (len(rows) * crops, 3, 256, 256) float32 0..1 and masks (…, 1, 256, 256) of some
        faces."""
        images = to_tensor(list(self.crops[rows, crops].reshape(-1, *self.crops.shape[2:])))
        masks = np.stack([self.masks_of(int(row))[crops] for row in rows])
        return images, torch.from_numpy(masks).flatten(0, 1)[:, None]

    def masks_of(self, row: int) -> NDArray[np.float32]:
        """The masks of a face, (CROPS, 256, 256) float32, 0 or 1."""
        return np.unpackbits(self.masks[row], axis=-1).astype(np.float32)


def read_faces(folder: Path) -> FaceLadders:
    """What `cut_faces` wrote to a folder; crops are read when they are needed."""
    crops = np.load(folder / FACES, mmap_mode="r")
    with np.load(folder / FACE_LABELS) as file:
        return FaceLadders(crops, file["masks"], file["falls"])


class FaceBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batches of `each` faces in random order, starting anew when all have been seen. Half of the crops are
    mirrored: always one of the two clean ones.

    Each item has images and masks as in `FaceLadders.tensors`, falls (each, CROPS), and labels (each,
    CROPS): the scores that they must get. Item i depends only on the seed, the epoch and i.
    """

    def __init__(
        self, faces: FaceLadders, labels: NDArray[np.float32], seed: int, epoch: int, steps: int, each: int
    ) -> None:
        self.faces, self.labels, self.each, self.steps = faces, labels, each, steps
        self.seed, self.epoch = seed, epoch
        order = np.random.default_rng((seed, 2)).permutation(len(labels))
        self.order = np.roll(order, -epoch * steps * each)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at = np.arange(index * self.each, (index + 1) * self.each) % len(self.order)
        rows = np.sort(self.order[at])
        images, masks = self.faces.tensors(rows)
        mirrored = np.random.default_rng((self.seed, 5, self.epoch, index)).random(len(images)) < 0.5
        mirrored[1::CROPS] = ~mirrored[::CROPS]
        for pixels in (images, masks):
            pixels[mirrored] = pixels[mirrored].flip(3)
        return images, masks, torch.from_numpy(self.faces.falls[rows]), torch.from_numpy(self.labels[rows])


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

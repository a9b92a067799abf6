"""Views for the training of DB-CNN-Lite: parts of rated images and of photos, most of them degraded a little.

    python -m jobs.training.cut_views --data DIR --out FOLDER [--views 8000]

DIR holds `live_challenge/`, `celeba_dev/` (images/, identity.csv), `portraits_1024/` and `videos/`. The
script writes `views.npy` and `views.npz` to FOLDER. Nobody rated these views: the teacher labels them. Its
scores of the rated images themselves would teach nothing, because it knows their ratings by heart.

Source of the method: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2022:
a student should see a teacher's answers for many and strongly varied images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from faceq.evaluation.distortions import Image, as_image
from faceq.iqa.dbcnn_lite import VIEW_SIDE
from faceq.runtime.threads import limit_threads
from jobs.training.cut_faces import pictures
from jobs.training.train_data import VIEW_SOURCES, VIEWS, random_crop, read_rated
from jobs.training.train_ladders import KINDS

SEED = 20261201
OF_PHOTOS = 0.25  # share of the views that show other photos than the rated ones
SCALES = (0.7, 1.4)  # least and largest factor by which an image is resized first
DEGRADED = 0.75  # share of the views that are degraded
DEGRADED_AGAIN = 0.3  # share of these that are degraded twice
FIRST_STEP, LAST_STEP = 0.5, 4.0  # of `Kind.degrade`
LIGHT, CONTRAST, COLOUR = 0.06, 0.15, 0.25  # standard deviations: of white, and two logarithms of factors

LIKED_BY_TEACHERS = ("sharpened", "blurred, then sharpened", "salt and pepper")
"""The beginnings of the names of `KINDS` for which the teacher's scores are too high."""


def view_of(image: Image, rng: np.random.Generator) -> Image:
    """A random view (VIEW_SIDE, VIEW_SIDE, 3) of an image (H, W, 3), both RGB uint8."""
    least = VIEW_SIDE / min(image.shape[:2])
    scale = max(least, float(np.exp(rng.uniform(*np.log(SCALES)))))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = tuple(max(VIEW_SIDE, round(scale * length)) for length in image.shape[1::-1])
    view = random_crop(np.asarray(cv2.resize(image, size, interpolation=how), np.uint8), VIEW_SIDE, rng)
    view = recoloured(view, rng)
    kinds = [kind for name, kind in KINDS.items() if not name.startswith(LIKED_BY_TEACHERS)]
    times = 1 + (rng.random() < DEGRADED_AGAIN) if rng.random() < DEGRADED else 0
    for _ in range(times):
        step = float(rng.uniform(FIRST_STEP, LAST_STEP)) / times
        view = kinds[rng.integers(len(kinds))].degrade(view, step, int(rng.integers(2**31)))
    return view


def recoloured(image: Image, rng: np.random.Generator) -> Image:
    """Change the brightness, contrast and saturation at random."""
    values = image.astype(np.float32)
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    contrast, colour = np.exp(rng.normal(0, (CONTRAST, COLOUR)))
    values = grey[..., None] + colour * (values - grey[..., None])
    middle = grey.mean()
    return as_image(middle + contrast * (values - middle) + 255 * rng.normal(0, LIGHT))


def main() -> None:
    """Write the views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for views.npy and views.npz")
    parser.add_argument("--views", type=int, default=8000, help="number of views (8000)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    rated = read_rated(options.data / "live_challenge").images
    others = pictures(options.data)
    print(f"{len(rated)} rated images, {len(others)} photos and frames", flush=True)
    shape = (options.views, VIEW_SIDE, VIEW_SIDE, 3)
    views = np.lib.format.open_memmap(options.out / VIEWS, "w+", np.uint8, shape)
    sources = np.where(rng.random(len(views)) < OF_PHOTOS, -1, rng.integers(0, len(rated), len(views)))
    with limit_threads(1):
        for row in track(range(len(views)), "views"):
            shown = rated[sources[row]] if sources[row] >= 0 else others[rng.integers(len(others))]
            views[row] = view_of(shown, rng)
    views.flush()
    np.savez(options.out / VIEW_SOURCES, sources=sources)


if __name__ == "__main__":
    main()

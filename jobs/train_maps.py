"""What the first halves of DB-CNN-Lite's networks see, computed once: views of rated pictures and ladders.

A view is kept as float16, which halves a few GB; crops of a picture are cut out of its maps, so that an
epoch of random crops costs no pass of the first halves at all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceq.dbcnn import PICTURE_SIDE, DBCNNLite, EarlyMaps, picture_tensor
from faceq.distortions import Image
from jobs.train_data import FACE_SIDE, RUNGS, Ladder, Ladders, Rated, made_ahead, random_ellipse, to_tensor

CELL = 8  # pixels of a position of the middle map

SIDES = (PICTURE_SIDE, 384, 288)
"""Of the shorter side of a rated picture, pixels: people rate one that is looked at smaller about alike."""

LEAST_CROP = 24  # cells of a crop's side
LEAST_SHARE = 0.65  # of the picture's shorter side
MASKED_SHARE = 0.1
"""Rated crops that count inside an ellipse only: people rated the whole, and a part is like it."""

View = tuple[Tensor, ...]
"""The four maps of EarlyMaps for one picture, float16, without the batch axis."""


def _views(maps: EarlyMaps) -> list[View]:
    return list(zip(*(getattr(maps, field.name).half() for field in fields(maps)), strict=True))


@dataclass(frozen=True)
class Batch:
    """N views: their maps, float32; mask (N, 1, h, w) float32 by cells of the middle map; targets (N,)
    float32, ratings or severities."""

    maps: EarlyMaps
    mask: Tensor
    targets: Tensor


def _batch(views: list[View], masks: list[Tensor], targets: Tensor) -> Batch:
    maps = [torch.stack(values).float() for values in zip(*views, strict=True)]
    return Batch(EarlyMaps(*maps), torch.stack(masks)[:, None], targets)


@torch.no_grad()
def _both(model: DBCNNLite, image: Image, side: int) -> tuple[View, View]:
    mirrored = np.ascontiguousarray(image[:, ::-1])
    as_shown, other = (_views(model.early(picture_tensor(one, side)))[0] for one in (image, mirrored))
    return as_shown, other


class RatedViews:
    """Rated pictures at several sizes, each as it is and mirrored."""

    def __init__(self, model: DBCNNLite, rated: Rated) -> None:
        self.ratings = torch.from_numpy(rated.ratings)
        self._views = {side: [_both(model, image, side) for image in rated.images] for side in SIDES}

    def __len__(self) -> int:
        return len(self.ratings)

    def whole(self, index: int, mirrored: bool) -> Batch:
        """One whole picture at the size at which it is rated."""
        view = self._views[PICTURE_SIDE][index][mirrored]
        return _batch([view], [torch.ones(view[2].shape[1:])], self.ratings[index : index + 1])

    def crops(self, indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """Random squares of these pictures, all of one random size, some to be judged inside an ellipse."""
        at_one_size = self._views[SIDES[rng.integers(len(SIDES))]]
        shorter = min(min(at_one_size[i][0][2].shape[1:]) for i in indices)
        side = int(rng.integers(max(LEAST_CROP, round(LEAST_SHARE * shorter)), shorter + 1)) // 2 * 2
        views = [self._crop(at_one_size[i][rng.integers(2)], side, rng) for i in indices]
        ellipses = [rng.random() < MASKED_SHARE for _ in indices]
        masks = [
            torch.from_numpy(random_ellipse(side, rng)) if ellipse else torch.ones(side, side)
            for ellipse in ellipses
        ]
        return _batch(views, masks, self.ratings[indices])

    @staticmethod
    def _crop(view: View, side: int, rng: np.random.Generator) -> View:
        height, width = view[2].shape[1:]
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        *semantic, distortion = view
        cut = [values[:, top : top + side, left : left + side] for values in semantic]
        # Twice as fine as the cells; of an odd picture the last column may be missing.
        top = min(2 * top, distortion.shape[1] - 2 * side)
        left = min(2 * left, distortion.shape[2] - 2 * side)
        return (*cut, distortion[:, top : top + 2 * side, left : left + 2 * side])


class LadderViews:
    """Ladders, each with its mask and severities."""

    def __init__(self, model: DBCNNLite, ladders: Ladders) -> None:
        self._ladders = [self._seen(model, ladder) for ladder in made_ahead(ladders)]

    @staticmethod
    @torch.no_grad()
    def _seen(model: DBCNNLite, ladder: Ladder) -> tuple[list[View], Tensor, Tensor]:
        cells = FACE_SIDE // CELL
        mask = torch.from_numpy(ladder.mask).view(cells, CELL, cells, CELL).mean((1, 3))
        return _views(model.early(to_tensor(ladder.images))), mask, torch.from_numpy(ladder.severities)

    def some(self, count: int, rng: np.random.Generator) -> Batch:
        """RUNGS views of each of `count` ladders, one ladder after another."""
        chosen = [self._ladders[i] for i in rng.integers(0, len(self._ladders), count)]
        views = [view for rungs, _, _ in chosen for view in rungs]
        masks = [mask for _, mask, _ in chosen for _ in range(RUNGS)]
        return _batch(views, masks, torch.cat([severities for _, _, severities in chosen]))

"""Where the landmarks of a face lie that its frame cuts: FaceMesh moves them towards the part that shows."""

from pathlib import Path

import numpy as np

MEAN_FACE = np.load(Path(__file__).parents[1] / "models" / "weights" / "mean-face.npy").astype(np.float64)
"""FaceMesh's landmarks of an average face seen from the front, (468, 3): x right, y down, z away from the
camera, in one unit, about their mean. Made symmetric. `python -m jobs.training.mean_face` makes it again."""

LEAST_POINTS = 20
"""Landmarks that must lie in the frame, if the others are to be told from them."""


def inside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which points (N, 2) lie between the corners `low` and `high` (2,) of a frame, (N,) bool."""
    return np.asarray(((points >= low) & (points <= high)).all(axis=1))


def completed(points: np.ndarray, depths: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Landmarks of which those beyond the frame lie where an average head has them.

    The average head is turned, scaled and moved until it fits the landmarks inside the frame.

    Args:
        points: (468, 2) of FaceMesh. depths: (468,), in the same unit.
        shown: (468,) bool, which of them lie in the frame. Fewer than LEAST_POINTS: the points stay.

    Returns:
        (468, 2); those that are shown are the same.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE TPAMI 13(4), 1991.
    """
    if shown.all() or np.count_nonzero(shown) < LEAST_POINTS:
        return points
    seen = np.column_stack([points, depths])[shown]
    origin, goal = MEAN_FACE[shown].mean(axis=0), seen.mean(axis=0)
    source, target = MEAN_FACE[shown] - origin, seen - goal
    left, strengths, right = np.linalg.svd(source.T @ target)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])  # a head is turned, never mirrored
    turn = (left * signs) @ right * (strengths @ signs) / (source**2).sum()
    return np.where(shown[:, None], points, ((MEAN_FACE - origin) @ turn + goal)[:, :2])

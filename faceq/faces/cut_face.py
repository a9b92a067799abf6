"""Correct the landmarks of a face that is cut off by the frame's edge.

FaceMesh shifts the landmarks of such a face towards its visible part.
"""

from pathlib import Path

import numpy as np

MEAN_FACE = np.load(Path(__file__).parents[1] / "models" / "weights" / "mean-face.npy").astype(np.float64)
"""FaceMesh's landmarks of an average frontal face, (468, 3): x right, y down, z away from the camera, all in
the same unit, relative to their mean. Made symmetric by `python -m jobs.training.mean_face`."""

COUNTERPARTS = ((MEAN_FACE[:, None, :2] - (-1, 1) * MEAN_FACE[None, :, :2]) ** 2).sum(axis=2).argmin(axis=1)
"""For each of FaceMesh's points, (468,), the index of the same point on the other side of the face."""

MIN_POINTS = 20
"""Minimum number of landmarks inside the frame to estimate the others from them."""


def inside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which points (N, 2) are between the corners `low` and `high` (2,) of a frame, (N,) bool."""
    return np.asarray(((points >= low) & (points <= high)).all(axis=1))


def completed(points: np.ndarray, depths: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Replace the landmarks outside the frame by those of an average head.

    The average head is rotated, scaled and moved to fit the landmarks inside the frame.

    Args:
        points: (468, 2), FaceMesh's landmarks.
        depths: (468,), in the same unit.
        shown: (468,) bool, which landmarks are inside the frame. If there are fewer than MIN_POINTS, the
            points are returned unchanged.

    Returns:
        (468, 2). The landmarks inside the frame are unchanged.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE TPAMI 13(4), 1991.
    """
    if shown.all() or np.count_nonzero(shown) < MIN_POINTS:
        return points
    seen = np.column_stack([points, depths])[shown]
    origin, goal = MEAN_FACE[shown].mean(axis=0), seen.mean(axis=0)
    source, target = MEAN_FACE[shown] - origin, seen - goal
    left, strengths, right = np.linalg.svd(source.T @ target)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])  # allow rotation only, not mirroring
    turn = (left * signs) @ right * (strengths @ signs) / (source**2).sum()
    return np.where(shown[:, None], points, ((MEAN_FACE - origin) @ turn + goal)[:, :2])

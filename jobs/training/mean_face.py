"""Make `faceq/models/weights/mean-face.npy`: the FaceMesh landmarks of an average face.

    python -m jobs.training.mean_face PHOTOS OUT

PHOTOS is a folder of photos with one person each, e.g. CelebA's.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from faceq import config
from faceq.faces import geometry, landmarks, region
from faceq.faces.finder import SURE_LOGIT
from faceq.sources.decode import image
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace

MAXIMUM_YAW = 15.0
"""Maximum yaw, degrees, of a frontal face."""

ROUNDS = 5


def main() -> int:
    """Write the mean over the faces that are confidently detected, complete and frontal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=200, help="maximum number of photos (200)")
    options = parser.parse_args()
    paths = sorted(options.photos.glob("*.jpg"))
    faces = np.stack(list(_faces(paths[2 :: max(1, len(paths) // options.most)][: options.most])))
    np.save(options.out, mean_face(faces).astype(np.float32))
    print(f"{len(faces)} faces")
    return 0


def _faces(paths: list[Path]) -> Iterator[np.ndarray]:
    """Landmarks (468, 3) of the usable faces, as FaceMesh gives them for the upright face."""
    settings = config.build({"fiq_threshold": 0})
    models = choose(settings)
    find = FindFace(settings, models)._find
    mesh = region.FaceMesh(models.path("landmarks"))
    for path in paths:
        photo = image.decode(path.read_bytes(), settings.max_pixels)
        found = find(photo)
        if found is None or found.logit is None or found.logit < SURE_LOGIT:
            continue
        points = found.dense.points
        if not ((points > 0) & (points < np.array(photo.shape[1::-1]) - 1)).all():
            continue
        angle = geometry.eye_angle(found.face.landmarks)
        centre, side = geometry.upright_extent(points, angle)
        matrix = geometry.crop_matrix(centre, landmarks.MESH_ENLARGEMENT * side, angle, region.MESH_SIZE)
        seen, _ = mesh(geometry.warp(photo, matrix, region.MESH_SIZE))
        if abs(geometry.head_pose(region.five(seen))[0]) < MAXIMUM_YAW:
            yield seen.astype(np.float64)


def mean_face(faces: np.ndarray) -> np.ndarray:
    """Mean shape (P, 3) of faces (N, P, 3), each rotated in the plane, scaled and shifted to fit it.

    The shape is symmetric, with mean 0. In the plane, the root mean square distance of its points from 0 is
    1.
    """
    mean = faces[0]
    for _ in range(ROUNDS):
        fitted = []
        for face in faces:
            matrix = geometry.similarity(face[:, :2], mean[:, :2])
            depth = np.hypot(*matrix[0, :2]) * (face[:, 2] - face[:, 2].mean())
            fitted.append(np.column_stack([geometry.from_frame(face[:, :2], matrix), depth]))
        mean = np.mean(fitted, axis=0)
        mean -= mean.mean(axis=0)
        mean /= np.sqrt((mean[:, :2] ** 2).sum(axis=1).mean())
    mirrored = mean * (-1, 1, 1)
    away = ((mean[:, None, :2] - mirrored[None, :, :2]) ** 2).sum(axis=2)
    mean = (mean + mirrored[linear_sum_assignment(away)[1]]) / 2
    return np.asarray(mean - mean.mean(axis=0))


if __name__ == "__main__":
    sys.exit(main())

"""Train the teacher of DB-CNN-Lite, and label faces with it.

    python -m jobs.training.train_teacher --data DIR --faces FACES --views VIEWS --features FEATURES \
        --init LITE0 LITE2 --distortion scnn.pt --out FOLDER [--fold 0 | --all]

DIR holds `live_challenge/` (images/, mos.csv). `cut_faces` wrote the folder FACES, `cut_views` the folder
VIEWS, and `frozen_features` the file FEATURES. The teacher is the mean of a kernel regression on these
features and of networks that learn the ratings: one for each published checkpoint of EfficientNet-Lite, each
with a distortion network like the student's. A part of the rated images, the fold, is held out unless you
pass `--all`. To resume a killed run, run the same command again.

The script writes `labels.npy`, (N, CROPS) float32, and `view_labels.npy`, (M,) float32: the scores that the
student must give to the crops of each face and to the views; and `held_out.csv`: the teacher's scores of the
held-out images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from faceq.iqa.dbcnn_lite import VIEW_SIDE, DBCNNLite
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_lite_weights import SECOND, Layout
from faceq.runtime.minibatch import in_mini_batches
from jobs.training.agreement import add_arguments, described, split, write_scores
from jobs.training.frozen_features import predicted
from jobs.training.train_data import (
    CROPS,
    FACE_SIDE,
    FaceLadders,
    Views,
    keep_freed_memory,
    read_faces,
    read_rated,
    read_views,
)
from jobs.training.train_figures import scores_of_images
from jobs.training.train_loop import RANK_MARGIN, Training, finished, learn_ratings
from jobs.training.train_norms import blocks_of

EPOCHS = 10
LABELS, VIEW_LABELS = "labels.npy", "view_labels.npy"
MINI_BATCH = 8  # views


def main() -> None:
    """Train the networks and write what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with live_challenge/")
    parser.add_argument("--faces", type=Path, required=True, help="folder that cut_faces wrote")
    parser.add_argument("--views", type=Path, required=True, help="folder that cut_views wrote")
    parser.add_argument("--features", type=Path, required=True, help="file that frozen_features wrote")
    parser.add_argument("--init", type=Path, nargs="+", required=True, help="EfficientNet-Lite checkpoints")
    parser.add_argument("--distortion", type=Path, required=True, help="file that name_distortions wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results")
    add_arguments(parser)
    options = parser.parse_args()
    keep_freed_memory(True)
    rated = read_rated(options.data / "live_challenge")
    held, counts = split(rated, options)
    known, rest = rated.only(~held), rated.only(held)
    faces, views = read_faces(options.faces), read_views(options.views)
    scores: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.float64]] = []  # of the crops of each face
    view_labels: list[NDArray[np.float64]] = []
    for seed, init in enumerate(options.init, start=1):
        folder = options.out / init.stem
        folder.mkdir(parents=True, exist_ok=True)
        layout = Layout(SECOND.share, SECOND.scnn, blocks_of(init))
        training = Training(known, None, seed, folder, counts)
        model = finished(training, learn_ratings(training, layout, init, options.distortion, EPOCHS), EPOCHS)
        scores.append(scores_of_images(model, rest))
        labels.append(scores_of_faces(model, faces))
        view_labels.append(scores_of_views(model, views))
    with np.load(options.features) as file:
        images, crops = ([file[key] for key in file if key.startswith(of)] for of in ("images", "faces"))
    features = [each[~held] for each in images]
    scores.append(predicted(features, known.ratings, [each[held] for each in images]))
    clean = [each[:, :2].mean(axis=1) for each in labels]
    clean.append(matched(predicted(features, known.ratings, crops), np.mean(clean, axis=0)))
    for each, found in zip(scores, clean, strict=True):
        print(f"clean faces {np.mean(found):.1f} +- {np.std(found):.1f}", *described(rest, each), flush=True)
    wanted = falling(np.mean(clean, axis=0), np.mean(labels, axis=0), faces.falls)
    np.save(options.out / LABELS, wanted.astype(np.float32))
    np.save(options.out / VIEW_LABELS, np.mean(view_labels, axis=0).astype(np.float32))
    write_scores(options.out, rest, np.mean(scores, axis=0))


def scores_of_faces(model: DBCNNLite, faces: FaceLadders) -> NDArray[np.float64]:
    """The scores (N, CROPS) of all crops of each face."""
    quality = OnnxQuality(model.arrays(), CROPS, FACE_SIDE, torch.get_num_threads(), layout=model.layout)
    rows = track(range(len(faces.falls)), "faces", transient=True)
    return np.array([quality(faces.crops[row], faces.masks_of(row))[0] for row in rows], np.float64)


def scores_of_views(model: DBCNNLite, views: Views) -> NDArray[np.float64]:
    """The scores (M,) of all views."""
    quality = OnnxQuality(model.arrays(), MINI_BATCH, VIEW_SIDE, torch.get_num_threads(), layout=model.layout)
    everywhere = np.broadcast_to(np.float32(1), views.images.shape[:3])
    scores = in_mini_batches(quality, MINI_BATCH, views.images, everywhere)[0]
    return scores.astype(np.float64)


def matched(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with the mean and the spread of others. The kernel regression gives faces, which are unlike the
    rated images, half the spread that the networks give them."""
    spread = values.std() or 1.0  # equal values stay equal
    return np.asarray(others.mean() + (values - values.mean()) * others.std() / spread)


def falling(
    clean: NDArray[np.float64], scores: NDArray[np.float64], falls: NDArray[np.float32]
) -> NDArray[np.float64]:
    """What the student must learn from the teacher's scores: they must fall along each ladder.

    The teacher learned from ratings only. It takes haloes for sharpness, and single black and white pixels
    for detail.

    Args:
        clean: (N,), the scores of the clean faces.
        scores: (N, CROPS), from networks that also scored the degraded faces.
        falls: (N, CROPS), as in `FaceLadders`.

    Returns:
        (N, CROPS): `clean` for both clean crops. Each further one is as much below as in `scores`, and at
        least as much below the one before as `falls` and RANK_MARGIN say.
    """
    labels = clean[:, None] + scores - scores[:, :2].mean(axis=1, keepdims=True)
    labels[:, :2] = clean[:, None]
    for step in range(2, CROPS):
        most = labels[:, step - 1] - RANK_MARGIN * (falls[:, step] - falls[:, step - 1])
        labels[:, step] = np.minimum(labels[:, step], most)
    return labels


if __name__ == "__main__":
    main()

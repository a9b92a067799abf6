"""Train DB-CNN-Lite on human ratings, and on views and faces that a teacher has labelled.

    python -m jobs.training.train_dbcnn --data DIR --faces FACES --views VIEWS --teacher TEACHER \
        --init efficientnet-lite0-57934424.pth --distortion scnn.pt --out FOLDER [--fold 0 | --all]

DIR holds `live_challenge/` (images/, mos.csv, NOTICE.txt). `portraits_1024/` and `faces/` in it are used for
measurements after the training. `cut_faces` wrote the folder FACES, `cut_views` the folder VIEWS,
`train_teacher` the folder TEACHER, and `name_distortions` the file scnn.pt. First, the network learns the
ratings of images and the teacher's scores of views. Then it goes on with these, and also learns

- the teacher's scores of faces, which must be the same after harmless changes,
- that the score of a face falls with each step of a distortion.

A part of the rated images, the fold, is held out unless you pass `--all`; the teacher must have held out the
same. To resume a killed run, run the same command again. The script writes `dbcnn-lite-2.safetensors`,
`dbcnn-lite-2.md` (the model card), `figures.json`, `held_out.csv` and the training curves to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from faceq.iqa.dbcnn_lite_weights import SECOND
from jobs.training.agreement import add_arguments, split, write_scores
from jobs.training.train_data import LabelledViews, keep_freed_memory, read_faces, read_rated, read_views
from jobs.training.train_figures import measure, scores_of_images, write_card, write_curves
from jobs.training.train_loop import (
    FACES_STAGE,
    RATINGS_STAGE,
    LabelledFaces,
    Training,
    finished,
    learn_faces,
    learn_ratings,
)
from jobs.training.train_teacher import LABELS, VIEW_LABELS

EPOCHS, FACES_EPOCHS = 12, 3
NAME = "dbcnn-lite-2"


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write as float16, which halves the size of the file."""
    beside = path.with_suffix(".tmp")
    save_file({key: value.half().contiguous() for key, value in state.items()}, beside)
    os.replace(beside, path)


def main() -> None:
    """Train, and write the weights and what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with live_challenge/")
    parser.add_argument("--faces", type=Path, required=True, help="folder that cut_faces wrote")
    parser.add_argument("--views", type=Path, required=True, help="folder that cut_views wrote")
    parser.add_argument("--teacher", type=Path, required=True, help="folder that train_teacher wrote")
    parser.add_argument("--init", type=Path, required=True, help="EfficientNet-Lite0 checkpoint (.pth)")
    parser.add_argument("--distortion", type=Path, required=True, help="file that name_distortions wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training (1)")
    add_arguments(parser)
    options = parser.parse_args()
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory(True)

    rated = read_rated(options.data / "live_challenge")
    held, counts = split(rated, options)
    rest = rated.only(held)
    faces = LabelledFaces(read_faces(options.faces), np.load(options.teacher / LABELS))
    views = read_views(options.views)
    usable = np.flatnonzero((views.sources < 0) | ~held[views.sources])
    seen = LabelledViews(views, np.load(options.teacher / VIEW_LABELS), usable)
    training = Training(rated.only(~held), seen, options.seed, folder, counts)
    lite = learn_ratings(training, SECOND, options.init, options.distortion, EPOCHS)
    last = range(EPOCHS, EPOCHS + FACES_EPOCHS)
    learn_faces(training, lite, faces, last)
    model = finished(training, lite, last.stop)
    path = folder / f"{NAME}.safetensors"
    write_weights(model.state_dict(), path)

    stored = load_dbcnn_lite(path)
    scores = scores_of_images(stored, rest)
    write_scores(folder, rest, scores)
    figures = measure(stored, rest, scores, options.data)
    print(json.dumps(figures, indent=1))
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for stage in (RATINGS_STAGE, FACES_STAGE):
        write_curves(folder / f"{stage}.csv")
    notice = (options.data / "live_challenge" / "NOTICE.txt").read_text()
    write_card(folder / f"{NAME}.md", figures, notice, counts, options.seed)


if __name__ == "__main__":
    main()

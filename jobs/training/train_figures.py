"""Evaluate a trained DB-CNN-Lite: agreement with ratings, ladders on portraits, and the model card."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import cv2
import matplotlib.figure
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import spearmanr

from faceq import config
from faceq.config import Region
from faceq.evaluation import iqa, whole_images
from faceq.evaluation.distortions import LADDERS, Image
from faceq.faces import geometry
from faceq.faces.region import apply_region
from faceq.iqa.dbcnn_lite import DBCNNLite
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.runtime.minibatch import in_mini_batches
from faceq.runtime.parallel import in_threads
from faceq.runtime.threads import limit_threads
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.stages.scores import masks_of
from faceq.table.schema import pixels
from jobs.training.train_data import FACE_SIDE, Rated, portraits, read_rgb, resize
from jobs.training.train_ladders import KINDS

LADDER_SIDE = 384
"""Side, pixels, to which portraits are resized before they are degraded."""

REGIONS: tuple[Region, ...] = ("mask", "black_out", "crop")
"""The parts of a crop that can be scored."""

SEVERITIES = range(6)
MINI_BATCH = 8


def measure(model: DBCNNLite, held_out: Rated, scores: NDArray[np.float64], data: Path) -> dict[str, object]:
    """Figures of the weights that will be shipped.

    Args:
        model: read from the file.
        held_out: rated images that it was not trained on; there may be none.
        scores: their scores.
        data: folder with portraits_1024/ and faces/, both optional.
    """
    figures: dict[str, object] = {}
    if held_out.names:
        ratings = held_out.ratings.astype(np.float64)
        figures["held_out"] = iqa.agreement(tuple(held_out.names), scores, ratings).figures()
    if paths := portraits(data, left_out=True):
        figures["ladders"] = ladder_figures(model, paths)
    for name in ("high_quality", "low_quality"):
        path = data / "faces" / f"{name}.jpg"
        if path.is_file():
            figures[name] = whole_crop(model, read_rgb(path))
    return figures


def scores_of_images(model: DBCNNLite, rated: Rated) -> NDArray[np.float64]:
    """The scores (N,) that `faceq evaluate iqa` gives."""
    rater = whole_images.rater_of(model)
    with limit_threads(rater.torch_threads):
        return np.array(list(in_threads(rater.rate, rated.images, rater.at_once)))


def whole_crop(model: DBCNNLite, image: Image) -> float:
    """Score of an image that is filled by a face, without a mask."""
    (score,) = OnnxQuality(model.arrays(), 1, FACE_SIDE, threads=1)(
        resize(image, FACE_SIDE)[None], np.ones((1, FACE_SIDE, FACE_SIDE), np.float32)
    )
    return float(score[0])


def ladder_figures(model: DBCNNLite, paths: list[Path]) -> dict[str, object]:
    """How reliably a portrait's score falls with severity, for each region that can be scored.

    Frames pass through the first stage of the job, which finds, crops and masks the face. By region and kind:
    the mean over faces of Spearman's correlation of severity 0..5 and score (-1 is best), the mean score at
    each severity, and the number of frames with a face.
    """
    quality = OnnxQuality(model.arrays(), MINI_BATCH, geometry.CROP_SIZE, threads=1)
    settings = config.Config()
    find = FindFace(settings, choose(settings))
    scores: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for index, path in enumerate(paths):
        taken = resize(read_rgb(path), LADDER_SIDE)
        for kind, degrade in LADDERS.items():
            crops, masks, found = _seen(find, [degrade(taken, severity, index) for severity in SEVERITIES])
            for region in REGIONS:
                line = np.full(len(SEVERITIES), np.nan)
                judged = apply_region(region, crops, masks)
                line[found] = in_mini_batches(quality, MINI_BATCH, *judged)[0]
                scores.setdefault((region, kind), []).append(line)
    figures: dict[str, dict[str, object]] = {region: {} for region in REGIONS}
    for (name, kind), lines in scores.items():
        there = [np.flatnonzero(~np.isnan(line)) for line in lines]
        ranks = [spearmanr(at, line[at]).statistic for at, line in zip(there, lines, strict=True)]
        figures[name][kind] = {
            "spearman": round(float(np.mean(ranks)), 4),
            "mean_scores": [round(float(value), 1) for value in np.nanmean(lines, axis=0)],
            "frames_with_a_face": f"{np.count_nonzero(~np.isnan(lines))} of {np.size(lines)}",
        }
    return dict(figures)


def _seen(
    find: FindFace, frames: list[Image]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Crops and masks of the frames with a face, and the positions of these frames."""
    stored = [cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes() for frame in frames]
    rows = find(pa.table({"image": stored, "status": pa.nulls(len(stored), pa.string())}))
    found = np.flatnonzero(rows["status"].is_null().to_numpy())
    crops = pixels(rows, "crop", found, (geometry.CROP_SIZE, geometry.CROP_SIZE, 3))
    return crops, masks_of(rows, found), found


def write_curves(curves: Path) -> None:
    """Plot the curves of a stage of a training from their CSV file into a PNG file beside it."""
    with curves.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = matplotlib.figure.Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs = [float(row["epoch"]) for row in rows]
    for name in rows[0].keys() - {"epoch", "seconds"}:
        axes.plot(epochs, [float(row[name]) for row in rows], label=name.replace("_", " "))
    axes.set(xlabel="epoch")
    axes.legend()
    figure.savefig(curves.with_suffix(".png"), dpi=100)


def write_card(path: Path, figures: dict[str, object], notice: str, counts: str, seed: int) -> None:
    """Write the model card: training data, method, measurements, and citations."""
    copyright_notice = notice.split("START", 1)[1].split("\n", 1)[1].split("-----------COPY", 1)[0]
    path.write_text(
        f"""# DB-CNN-Lite 2

Scores the perceptual quality of an image, or of the part of it inside a mask: 0 (bad) to 100
(excellent), the scale of the human ratings in LIVE In the Wild. Written by
`python -m jobs.training.train_dbcnn` on {date.today():%Y-%m-%d}; the networks are in
`faceq/iqa/dbcnn_lite.py`.

## Training data
- Initial weights of the semantic network: EfficientNet-Lite0, ImageNet (Apache-2.0), sha256
  `579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db`.
- Ratings: LIVE In the Wild Image Quality Challenge Database, {counts}.
- Faces: photos from CelebA and CelebA-HQ, and frames of a few videos of LivePortrait. People and portraits
  whose name has `int(blake2b(name, digest_size=8)) % 5 == 0` are left out. Nobody rated these faces. Their
  labels are the scores of a teacher, the mean of networks with EfficientNet-Lite0 to Lite2 that learned the
  same ratings.
- Views: parts of the rated images of the training, and of the same photos and frames, most of them degraded a
  little (`jobs/training/cut_views.py`). Their labels are the teacher's scores, too.
- {len(KINDS)} kinds of distortion of these faces (`jobs/training/train_ladders.py`): the score must fall with
  each step.
- Seed {seed}; the weights of the last epoch, as float16.

## Measurements
`held_out`, if images were held out: agreement with the human ratings of whole images. The model scores ten
square crops of each image, as in `faceq evaluate iqa`. Settings were chosen by looking at such figures, so
expect slightly lower agreement on other data.
`ladders`: portraits that were left out, at {LADDER_SIDE} pixels, degraded as in
`faceq.evaluation.distortions.LADDERS`, processed by the first stage of the job. For each region that is
scored (`mask` is the default): Spearman's correlation between severity 0..5 and score, as the mean over faces
(-1 is best), and the mean score by severity.
`high_quality`, `low_quality`: the scores of one good and one bad photo of a face.

```json
{json.dumps(figures, indent=1)}
```

## Limits
The rated images show everyday scenes, not faces. Synthetic distortions have an order of severity but no
ratings: the model learned that a degraded face scores lower, but not how much lower. Scores are not
clipped and may leave 0..100. Deep features also depend on pixels outside the mask, so the surroundings of
a face still change its score, though less than without a mask.

## Citations, and the notice that comes with the ratings
- W. Zhang, K. Ma, J. Yan, D. Deng, Z. Wang, "Blind Image Quality Assessment Using a Deep Bilinear
  Convolutional Neural Network," IEEE Transactions on Circuits and Systems for Video Technology,
  2020.
- D. Ghadiyaram and A.C. Bovik, "Massive Online Crowdsourced Study of Subjective and Objective
  Picture Quality," IEEE Transactions on Image Processing, accepted.
- D. Ghadiyaram and A.C. Bovik, "LIVE In the Wild Image Quality Challenge Database," Online:
  http://live.ece.utexas.edu/research/ChallengeDB/index.html, 2015.

```
{copyright_notice.strip()}
```
"""
    )

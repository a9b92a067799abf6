"""The training loop of DB-CNN-Lite and of its teachers: ratings, and ladders of faces."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from faceq.iqa.dbcnn_lite import DBCNNLite, bounded
from faceq.iqa.dbcnn_lite_weights import RATING_CENTRE, RATING_SPREAD, Layout
from jobs.training.train_data import (
    CROPS,
    FaceBatches,
    FaceLadders,
    LabelledViews,
    Rated,
    RatedBatches,
    prefetched,
)
from jobs.training.train_norms import BATCH_NORM_MOMENTUM, fold, unfold

BATCH = 16  # rated images and views in a step
WEIGHT_DECAY = 0.02
TUNED_RATE, NEW_RATE = 3e-4, 1e-3  # of both networks; of the projection and the head
WARM_UP = 0.25  # share of the steps in which the rate rises

FACES_A_STEP = 2
RANK_MARGIN = 30.0  # points by which the score of a ruined face must fall: `Kind.falls` is relative to it
FACE_WEIGHTS = (0.3, 5.0, 0.15)  # of the three `face_losses`, relative to the loss of ratings
FACES_RATE, FACES_WARM_UP = 6e-5, 0.1  # of all parts

RATINGS_STAGE, FACES_STAGE = "ratings", "faces"
"""The two stages of a training, in this order; each writes its curves to a CSV file of this name."""

Part = nn.Module | torch.optim.Optimizer | OneCycleLR  # objects whose state is saved in a checkpoint


@dataclass(frozen=True)
class LabelledFaces:
    """Ladders of faces, and the scores (N, CROPS) float32 that their crops must get."""

    ladders: FaceLadders
    labels: NDArray[np.float32]


def train_stage(
    name: str,
    folder: Path,
    parts: dict[str, Part],
    epochs: int,
    run_epoch: Callable[[int], dict[str, float]],
    of: str,
) -> None:
    """Run the remaining epochs. After each one, save the state of all parts and the curves.

    `of`: identifies the run. A checkpoint of another run is refused.
    """
    checkpoint = folder / f"{name}.checkpoint.pt"
    curves: list[dict[str, float]] = []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        for what, made, wanted in (("epochs", state["epochs"], epochs), ("run", state["of"], of)):
            if made != wanted:
                raise ValueError(
                    f"train: {checkpoint} was made for {what} {made!r}, not {wanted!r}: use another --out"
                )
        curves = state["curves"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    for epoch in range(len(curves), epochs):
        start = time.monotonic()
        torch.manual_seed(epoch)  # makes dropout repeatable, also after a resume
        curves.append({"epoch": epoch + 1, **run_epoch(epoch), "seconds": time.monotonic() - start})
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in curves[-1].items()), flush=True)
        state = {key: part.state_dict() for key, part in parts.items()}
        beside = checkpoint.with_suffix(".tmp")
        torch.save(state | {"epochs": epochs, "of": of, "curves": curves}, beside)
        os.replace(beside, checkpoint)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(curves[0]))
            writer.writeheader()
            writer.writerows(curves)


class LiveLite(nn.Module):
    """DBCNNLite that standardises with batch statistics during training, as its semantic network does.

    Without this noise, the head overfits to its few hundred images: with statistics of a whole pass over
    them, the training loss fell to 0.2 in two epochs, and the correlation on held-out images fell too.
    """

    def __init__(self, model: DBCNNLite) -> None:
        super().__init__()
        self.model = model
        self.norm = nn.BatchNorm1d(model.head.in_features, affine=False, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, images: Tensor, mask: Tensor, live: bool) -> Tensor:
        """As DBCNNLite. `live`: use and record the statistics of the batch, whose images must be varied."""
        self.model.semantic.train(live)
        self.norm.train(live)
        self.model.dropout.train(live)
        # Training in half precision takes two thirds of the time and of the memory.
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            maps = self.model.maps(images)
        pooled = self.model.pool(maps, mask)
        values = self.model.weighed(bounded(self.norm(pooled)))
        score: Tensor = self.model.head(self.model.dropout(values)).squeeze(1)
        return RATING_CENTRE + RATING_SPREAD * score

    def freeze(self) -> None:
        """Copy the recorded statistics into the model."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        self.model.pooled_mean.copy_(mean)
        self.model.pooled_std.copy_((variance + self.norm.eps).sqrt())
        self.model.eval()


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error in units of the spread of the ratings, plus one minus Pearson's correlation."""
    squared = ((scores - ratings) / RATING_SPREAD).square().mean()
    correlation = F.cosine_similarity(scores - scores.mean(), ratings - ratings.mean(), dim=0)
    return squared + 1 - correlation


def ranking_loss(scores: Tensor, severities: Tensor) -> Tensor:
    """Hinge loss on all pairs of rungs: the score must fall by RANK_MARGIN points over severity 0..1.

    Args:
        scores, severities: (ladders, rungs) float32; severities 0..1, rising along each ladder.
    """
    rungs = scores.shape[1]
    better, worse = torch.triu_indices(rungs, rungs, offset=1)
    gap = scores[:, better] - scores[:, worse]
    wanted = RANK_MARGIN * (severities[:, worse] - severities[:, better])
    return ((wanted - gap) / RATING_SPREAD).clamp_min(0).mean()


def face_losses(scores: Tensor, falls: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is wrong with the scores of ladders: in units of the spread of the ratings.

    Args:
        scores: (N, CROPS), two of clean crops, then those of degraded ones, from good to bad.
        falls: (N, CROPS), 0..1, what each must lose at least, as a share of RANK_MARGIN.
        labels: (N, CROPS), what they must get.

    Returns:
        The squared errors, the squared differences between both clean crops, and the hinge loss of all pairs
        of steps: the worse must be lower by the margin. Each is a mean.
    """
    clean = scores[:, :2]
    wrong = ((scores - labels) / RATING_SPREAD).square().mean()
    apart = ((clean[:, 0] - clean[:, 1]) / RATING_SPREAD).square().mean()
    rungs = torch.cat([clean.mean(1, keepdim=True), scores[:, 2:]], dim=1)
    better, worse = torch.triu_indices(rungs.shape[1], rungs.shape[1], offset=1)
    wanted = RANK_MARGIN * (falls[:, 1:][:, worse] - falls[:, 1:][:, better])
    missing = wanted - (rungs[:, better] - rungs[:, worse])
    return wrong, apart, (missing / RATING_SPREAD).clamp_min(0).mean()


@dataclass(frozen=True)
class Training:
    """What both stages of a training have in common.

    rated, views: what the network learns from; views may be None. folder: for the checkpoints, from which a
    killed run resumes, and for the curves. of: identifies the data. A checkpoint of another run is refused.
    """

    rated: Rated
    views: LabelledViews | None
    seed: int
    folder: Path
    of: str

    def batches(self, epoch: int) -> RatedBatches:
        """The batches of ratings and views of an epoch."""
        return RatedBatches(self.rated, self.seed, epoch, BATCH, self.views)


def learn_ratings(training: Training, layout: Layout, init: Path, distortion: Path, epochs: int) -> LiveLite:
    """Train a network on ratings and, if there are any, on views.

    Args:
        training: what it learns from.
        layout: the layers of the network.
        init: the published checkpoint of its semantic network.
        distortion: the weights of its distortion network from `name_distortions`.
        epochs: passes over the rated images.
    """
    torch.manual_seed(training.seed)
    model = DBCNNLite(layout)
    unfold(model.semantic, init)
    model.distortion.load_state_dict(torch.load(distortion, weights_only=True))
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rates: dict[nn.Module, float] = {
        **dict.fromkeys((model.semantic, model.distortion), TUNED_RATE),
        **dict.fromkeys((model.project, model.head), NEW_RATE),
    }
    lite = LiveLite(model)
    _run(training, lite, rates, WARM_UP, range(epochs))
    return lite


def learn_faces(training: Training, lite: LiveLite, faces: LabelledFaces, epochs: range) -> None:
    """Go on with faces and their distortions, and at a low rate, so that what was learned stays.

    Spearman's correlation on the held-out images of fold 0 is 0.846 before this stage and 0.841 after it.
    With faces from the start it was 0.829.

    Args:
        epochs: their numbers, which follow those of `learn_ratings`.
    """
    _run(training, lite, {lite.model: FACES_RATE}, FACES_WARM_UP, epochs, faces)


def _run(
    training: Training,
    lite: LiveLite,
    rates: dict[nn.Module, float],
    warm_up: float,
    epochs: range,
    faces: LabelledFaces | None = None,
) -> None:
    """A stage of a training. `rates`: the highest learning rate of each part of the network."""
    steps = len(training.batches(0))
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optimiser, list(rates.values()), total_steps=len(epochs) * steps, pct_start=warm_up)

    def run_epoch(at: int) -> dict[str, float]:
        epoch = epochs[at]
        ladders = (
            prefetched(FaceBatches(faces.ladders, faces.labels, training.seed, epoch, steps, FACES_A_STEP))
            if faces
            else iter(())
        )
        totals = np.zeros(4)
        for images, ratings in prefetched(training.batches(epoch)):
            losses = [rating_loss(lite(images, torch.ones_like(images[:, :1]), live=True), ratings)]
            for crops, masks, falls, labels in [next(ladders)] if faces else []:
                losses += face_losses(lite(crops, masks, live=False).view(-1, CROPS), falls, labels)
            optimiser.zero_grad()
            weighed = [w * loss for w, loss in zip((1, *FACE_WEIGHTS), losses, strict=False)]
            torch.stack(weighed).sum().backward()
            optimiser.step()
            schedule.step()
            totals[: len(losses)] += [loss.item() for loss in losses]
        names = ("rating_loss", "label_loss", "difference_loss", "ranking_loss")
        return dict(zip(names[: len(losses)], (totals / steps).tolist(), strict=False))

    parts: dict[str, Part] = {"lite": lite, "optimiser": optimiser, "schedule": schedule}
    name = FACES_STAGE if faces else RATINGS_STAGE
    train_stage(name, training.folder, parts, len(epochs), run_epoch, f"seed {training.seed}, {training.of}")


def finished(training: Training, lite: LiveLite, epochs: int) -> DBCNNLite:
    """The network with the statistics, norms and scale of inference, after `epochs` in all."""
    gather_statistics(lite, training.batches(epochs))
    lite.freeze()
    fold(lite.model.semantic)
    fit_scale(lite.model, RatedBatches(training.rated, training.seed, epochs + 1, BATCH))
    return lite.model


@torch.no_grad()
def fit_scale(model: DBCNNLite, crops: RatedBatches) -> None:
    """Stretch the scores to the spread of the ratings: training under much noise leaves them too close
    together."""
    pairs = [
        (model(images, torch.ones_like(images[:, :1])), ratings) for images, ratings in prefetched(crops)
    ]
    scores, ratings = (torch.cat(values).numpy() for values in zip(*pairs, strict=True))
    slope, offset = np.polyfit(scores, ratings, 1)
    model.head.weight.mul_(slope)
    model.head.bias.copy_(slope * model.head.bias + ((slope - 1) * RATING_CENTRE + offset) / RATING_SPREAD)


@torch.no_grad()
def gather_statistics(lite: LiveLite, crops: RatedBatches) -> None:
    """Compute the statistics of all norms over the crops, with the final weights.

    Statistics recorded during training belong to weights of about twenty steps before. After four epochs,
    when weights change fast, the correlation on held-out images was 0.67 with the recorded statistics and
    0.83 with these.
    """
    for module in lite.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    for images, _ in prefetched(crops):
        lite(images, torch.ones_like(images[:, :1]), live=True)

"""Train DB-CNN-Lite on human ratings and on synthetic distortions.

    python -m jobs.training.train_dbcnn --data DIR --init efficientnet-lite0-57934424.pth --out FOLDER [--all]

DIR holds `live_challenge/` (images/, mos.csv, NOTICE.txt) and `kodak24/`. `portraits_1024/` and `faces/` are
used only for measurements after training. The stages:

1. Naming: the distortion network alone learns to tell 39 synthetic distortions apart.
2. Rating: the whole model learns the ratings. It also learns that a crop scores lower if it is degraded more,
   whatever is outside its mask.
3. Finishing: the statistics of the norms are computed again, and the head is tuned so that scores match the
   scale of the ratings and keep falling up to the highest severity.

A fifth of the rated images, chosen by a hash of the name, is held out from all stages unless you pass
`--all`. To resume a killed run from its last epoch, run the same command again. The script writes
`dbcnn-lite.safetensors`, `dbcnn-lite.md` (the model card), `figures.json`, and the training curves of each
stage (`<stage>.csv`) to FOLDER.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from faceq.evaluation.distortions import Image
from faceq.iqa.dbcnn_lite import DBCNNLite, DistortionNet, bounded
from faceq.iqa.dbcnn_lite_weights import RATING_CENTRE, RATING_SPREAD, SCNN_CHANNELS, SCNN_LAYERS
from jobs.training.train_data import (
    LadderBatches,
    NamingBatches,
    Rated,
    RatedBatches,
    is_held_out,
    keep_freed_memory,
    prefetched,
    read_pristine,
    read_rated,
)
from jobs.training.train_distortions import NAMED
from jobs.training.train_figures import measure, write_card, write_curves
from jobs.training.train_norms import BATCH_NORM_MOMENTUM, fold, folded, unfold

NAMING_SEED = 20261125
NAMING_EPOCHS, NAMING_STEPS = 8, 100

RATING_BATCH = 16
RATING_EPOCHS = 12
WEIGHT_DECAY = 0.02
TUNED_RATE, NEW_RATE = 3e-4, 1e-3  # of both networks; of the projection and the head
RANK_MARGIN = 30.0  # minimum fall of the score over the whole range of severity
RANKING_WEIGHT = 0.3
LADDERS_A_STEP = 2

FINISH_LADDERS, FINISH_REACH = 600, 1.15  # maximum severity, above that of the training
FINISH_STEPS, FINISH_RATE = 300, 1e-3
KEEP_SCORES = 10.0

Part = nn.Module | torch.optim.Optimizer | OneCycleLR  # objects whose state is saved in a checkpoint


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


# --- naming --------------------------------------------------------------------------------------


def naming_network() -> nn.Sequential:
    """S-CNN with batch norms: each layer has a convolution, a norm and a ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for out, stride in SCNN_LAYERS:
        convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        layers.append(nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU()))
        channels = out
    return nn.Sequential(*layers)


def channels_last(network: nn.Module) -> None:
    """Convert to the memory layout in which convolutions are faster on CPUs."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def learn_distortions(network: DistortionNet, pristine: list[Image], folder: Path, of: str) -> None:
    """Learn to tell 39 distortions apart, and store the folded weights in `network`."""
    torch.manual_seed(NAMING_SEED)
    layers = naming_network()
    channels_last(layers)
    classifier = nn.Linear(SCNN_CHANNELS, len(NAMED))
    optimiser = torch.optim.AdamW([*layers.parameters(), *classifier.parameters()], lr=3e-3)
    schedule = OneCycleLR(optimiser, 6e-3, total_steps=NAMING_EPOCHS * NAMING_STEPS)

    def run_epoch(epoch: int) -> dict[str, float]:
        layers.train()
        right = total = 0.0
        for images, names in prefetched(NamingBatches(pristine, NAMING_SEED, epoch, NAMING_STEPS)):
            # Approximately the normalisation of the whole model, which differs by colour channel.
            logits = classifier(layers((images - 0.45) / 0.225).mean(dim=(2, 3)))
            loss = F.cross_entropy(logits, names)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            right += (logits.argmax(1) == names).float().mean().item()
            total += loss.item()
        return {"loss": total / NAMING_STEPS, "named_rightly": right / NAMING_STEPS}

    parts: dict[str, Part] = {"layers": layers, "classifier": classifier}
    parts |= {"optimiser": optimiser, "schedule": schedule}
    train_stage("naming", folder, parts, NAMING_EPOCHS, run_epoch, of)
    for layer, trained in zip(network, layers, strict=True):
        convolution, norm, _ = trained.children()
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = folded(convolution.state_dict()["weight"], norm)
        layer.load_state_dict({"0.weight": weight, "0.bias": bias})


# --- ratings -------------------------------------------------------------------------------------


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


def learn_ratings(
    lite: LiveLite, rated: Rated, pristine: list[Image], seed: int, folder: Path, of: str
) -> None:
    """Train on ratings and rankings together."""
    model, steps = lite.model, len(rated.names) // RATING_BATCH
    rates: dict[nn.Module, float] = {
        **dict.fromkeys((model.semantic, model.distortion), TUNED_RATE),
        **dict.fromkeys((model.project, model.head), NEW_RATE),
    }
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optimiser, list(rates.values()), total_steps=RATING_EPOCHS * steps, pct_start=0.25)

    def run_epoch(epoch: int) -> dict[str, float]:
        model.dropout.train()
        crops = prefetched(RatedBatches(rated, seed, epoch, RATING_BATCH))
        ladders = prefetched(LadderBatches(pristine, seed, epoch, steps, LADDERS_A_STEP))
        totals = np.zeros(2)
        for (images, ratings), (rungs, masks, severities) in zip(crops, ladders, strict=True):
            rating = rating_loss(lite(images, torch.ones_like(images[:, :1]), live=True), ratings)
            scores = lite(rungs, masks, live=False).view_as(severities)
            ranking = ranking_loss(scores, severities)
            weight = RANKING_WEIGHT if epoch else 0  # the first epoch has no usable statistics
            optimiser.zero_grad()
            (rating + weight * ranking).backward()
            optimiser.step()
            schedule.step()
            totals += rating.item(), ranking.item()
        rating_mean, ranking_mean = (totals / steps).tolist()
        return {"rating_loss": rating_mean, "ranking_loss": ranking_mean}

    parts: dict[str, Part] = {"lite": lite, "optimiser": optimiser, "schedule": schedule}
    train_stage("rating", folder, parts, RATING_EPOCHS, run_epoch, f"seed {seed}, {of}")
    gather_statistics(lite, RatedBatches(rated, seed, RATING_EPOCHS, RATING_BATCH))
    lite.freeze()


@torch.no_grad()
def gather_statistics(lite: LiveLite, crops: RatedBatches) -> None:
    """Compute the statistics of all norms over the crops, with the final weights.

    Statistics recorded during training belong to weights of about twenty steps before. After four epochs,
    when weights change fast, the correlation on held-out images was 0.67 with the recorded statistics and
    0.83 with these.
    """
    lite.model.dropout.eval()
    for module in lite.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    for images, _ in prefetched(crops):
        lite(images, torch.ones_like(images[:, :1]), live=True)


def finish_head(model: DBCNNLite, rated: Rated, pristine: list[Image], seed: int) -> None:
    """Map the scores to the scale of the ratings, and make them fall beyond the severities of the training.

    The first step is a linear fit: training under much noise leaves the scores too close together. The second
    step trains only the head, with the networks frozen. Above the severities of the training, most pooled
    features are at their bound, so the remaining ones decide. Penalties keep the scores of rated crops, and
    the weights of the head, close to their values after the fit.
    """
    steps = FINISH_LADDERS // LADDERS_A_STEP
    ladders = LadderBatches(pristine, seed, RATING_EPOCHS, steps, LADDERS_A_STEP, FINISH_REACH)
    seen = [(head_input(model, rungs, masks), each) for rungs, masks, each in prefetched(ladders)]
    rungs, severities = torch.cat([each for each, _ in seen]), torch.cat([each for _, each in seen])
    crops = prefetched(RatedBatches(rated, seed, RATING_EPOCHS + 1, RATING_BATCH))
    known = [(head_input(model, images, torch.ones_like(images[:, :1])), each) for images, each in crops]
    pictures, ratings = torch.cat([each for each, _ in known]), torch.cat([each for _, each in known])

    def scores(values: Tensor) -> Tensor:
        return RATING_CENTRE + RATING_SPREAD * model.head(values).squeeze(1)

    with torch.no_grad():
        slope, offset = np.polyfit(scores(pictures).numpy(), ratings.numpy(), 1)
        model.head.weight.mul_(slope)
        model.head.bias.copy_(
            slope * model.head.bias + ((slope - 1) * RATING_CENTRE + offset) / RATING_SPREAD
        )
        before, weight = scores(pictures), model.head.weight.clone()
    optimiser = torch.optim.Adam(model.head.parameters(), lr=FINISH_RATE)
    schedule = CosineAnnealingLR(optimiser, FINISH_STEPS)
    for _ in range(FINISH_STEPS):
        ranking = ranking_loss(scores(rungs).view_as(severities), severities)
        moved = ((scores(pictures) - before) / RATING_SPREAD).square().mean()
        turned = (model.head.weight - weight).square().sum()
        optimiser.zero_grad()
        (ranking + KEEP_SCORES * moved + turned).backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def head_input(model: DBCNNLite, images: Tensor, mask: Tensor) -> Tensor:
    """Input of the head: (N, D)."""
    return model.standardised(model.pool(model.maps(images), mask))


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write as float16, which halves the size of the file."""
    beside = path.with_suffix(".tmp")
    save_file({key: value.half().contiguous() for key, value in state.items()}, beside)
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with live_challenge/ and kodak24/")
    parser.add_argument("--init", type=Path, required=True, help="EfficientNet-Lite0 checkpoint (.pth)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--all", action="store_true", help="train on the held-out images too")
    parser.add_argument("--seed", type=int, default=1, help="seed of all stages except the first (1)")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory(True)

    rated = read_rated(arguments.data / "live_challenge")
    held = np.array([is_held_out(name) and not arguments.all for name in rated.names])
    training, held_out = rated.only(~held), rated.only(held)
    pristine = read_pristine(arguments.data, training)
    counts = f"{len(training.names)} images for training, {len(held_out.names)} held out"
    print(f"{counts}, {len(pristine)} pristine images", flush=True)

    distortion = DistortionNet()
    channels_last(distortion)
    learn_distortions(distortion, pristine, folder, counts)
    torch.manual_seed(arguments.seed)
    model = DBCNNLite()
    model.distortion = distortion
    unfold(model.semantic, arguments.init)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    channels_last(model)
    learn_ratings(LiveLite(model), training, pristine, arguments.seed, folder, counts)
    fold(model.semantic)
    finish_head(model, training, pristine, arguments.seed)
    write_weights(model.state_dict(), folder / "dbcnn-lite.safetensors")

    held_out_too = None if arguments.all else held_out
    figures = measure(folder / "dbcnn-lite.safetensors", held_out_too, arguments.data)
    print(json.dumps(figures, indent=1))
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_curves(folder)
    notice = (arguments.data / "live_challenge" / "NOTICE.txt").read_text()
    write_card(folder / "dbcnn-lite.md", figures, notice, counts, arguments.seed)


if __name__ == "__main__":
    main()

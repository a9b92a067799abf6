"""Train DB-CNN-Lite on people's ratings and on pictures spoiled on purpose.

    python -m jobs.train_dbcnn --data DIR --init efficientnet-lite0-57934424.pth --out FOLDER [--all]

DIR holds `live_challenge/` (images/, mos.csv, NOTICE.txt) and `kodak24/`; `portraits_1024/` and
`faces/` are looked at after training only. Stages:

1. naming: the distortion network alone learns to tell 39 synthetic distortions apart.
2. semantic: the semantic network with a head of its own learns the ratings.
3. ranking: the distortion network, and what multiplies it with the semantic one, learn to take points off a
   crop that is spoiled further, whatever lies outside its mask, and none off rated pictures, whose scores
   the second stage has settled. (Given the ratings again, thousands of products learn the few hundred
   pictures by heart: the correlation on held-out ones fell from 0.83 to 0.75 in two epochs.)
4. The share of the third stage that is kept is a compromise between ladders and ratings; a line fitted to
   the ratings brings the scores to their scale.

A fifth of the rated pictures, chosen by a hash of the name, is never trained on in any stage, unless
`--all` says so. A run that was killed goes on from its last epoch with the same command. FOLDER ends
up with `dbcnn-lite.safetensors`, `dbcnn-lite.md` (the model card), `figures.json`, and the curves of each
stage as `<stage>.csv`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
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
from torch.optim.lr_scheduler import OneCycleLR

from faceq.dbcnn import (
    LEVEL_CHANNELS,
    RATING_CENTRE,
    RATING_SPREAD,
    SCNN_CHANNELS,
    SCNN_LAYERS,
    DBCNNLite,
    DistortionNet,
    SemanticNet,
    bounded,
    masked_moments,
    picture_tensor,
    register_imagenet,
)
from faceq.distortions import Image
from jobs.train_data import (
    RUNGS,
    Ladder,
    Ladders,
    NamingBatches,
    Rated,
    RatedBatches,
    is_held_out,
    made_ahead,
    read_pristine,
    read_rated,
    to_tensor,
)
from jobs.train_distortions import NAMED
from jobs.train_figures import measure, write_card, write_curves

NAMING_SEED = 20261125
NAMING_EPOCHS, NAMING_STEPS = 8, 100

BATCH_NORM_EPS = 1e-3  # EfficientNet's
BATCH_NORM_MOMENTUM = 0.05
"""Statistics of some 20 batches: EfficientNet's 0.01 would trail behind weights that move this fast."""

RATING_BATCH = 16
WEIGHT_DECAY = 0.02
SEMANTIC_EPOCHS, SEMANTIC_RATE, SEMANTIC_HEAD_RATE = 8, 3e-4, 1e-3

RANKING_EPOCHS, RANKING_STEPS = 6, 50
RANKING_LADDERS, RANKING_RATED = 4, 8  # ladders, and rated crops, of a step
RANKING_RATE = 1e-3
RANK_MARGIN = 30.0  # points of rating that the whole range of severity must cost
STAYING_WEIGHT = 1.0
DISTORTION_SHARE = 0.12
"""Measured on the held-out fifth and on eleven portraits: with all of it the rank correlation with ratings is
0.69 and that of noise and score -0.99, without it 0.83 and -0.83; at 0.1 it is 0.825 and -0.95, at 0.2 0.81
and -0.99."""

Part = nn.Module | torch.optim.Optimizer | OneCycleLR  # what has a state to keep


def train_stage(
    name: str,
    folder: Path,
    parts: dict[str, Part],
    epochs: int,
    run_epoch: Callable[[int], dict[str, float]],
) -> None:
    """Run the epochs that are not done yet, keeping the state of all parts and the curves after each."""
    checkpoint = folder / f"{name}.checkpoint.pt"
    curves: list[dict[str, float]] = []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["epochs"] != epochs:
            raise ValueError(
                f"train: {checkpoint} was made for {state['epochs']} epochs, not {epochs}: use another --out"
            )
        curves = state["curves"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    for epoch in range(len(curves), epochs):
        start = time.monotonic()
        torch.manual_seed(epoch)  # dropout's draws, also after a resume
        curves.append({"epoch": epoch + 1, **run_epoch(epoch), "seconds": time.monotonic() - start})
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in curves[-1].items()), flush=True)
        state = {key: part.state_dict() for key, part in parts.items()}
        beside = checkpoint.with_suffix(".tmp")
        torch.save(state | {"epochs": epochs, "curves": curves}, beside)
        os.replace(beside, checkpoint)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(curves[0]))
            writer.writeheader()
            writer.writerows(curves)


# --- naming --------------------------------------------------------------------------------------


def naming_network() -> nn.Sequential:
    """S-CNN with its batch norms: each layer a convolution, a norm and a ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for out, stride in SCNN_LAYERS:
        convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        layers.append(nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU()))
        channels = out
    return nn.Sequential(*layers)


@torch.no_grad()
def folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what one without bias and the norm after it do."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * factor.view(-1, 1, 1, 1), norm.bias - norm.running_mean * factor


def channels_last(network: nn.Module) -> None:
    """The layout in which CPUs convolve faster."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def learn_distortions(network: DistortionNet, pristine: list[Image], folder: Path) -> None:
    """Learn to tell 39 distortions apart; leaves the folded weights in `network`."""
    torch.manual_seed(NAMING_SEED)
    layers = naming_network()
    channels_last(layers)
    classifier = nn.Linear(SCNN_CHANNELS, len(NAMED))
    optimiser = torch.optim.AdamW([*layers.parameters(), *classifier.parameters()], lr=3e-3)
    schedule = OneCycleLR(optimiser, 6e-3, total_steps=NAMING_EPOCHS * NAMING_STEPS)

    def run_epoch(epoch: int) -> dict[str, float]:
        layers.train()
        right = total = 0.0
        for images, names in made_ahead(NamingBatches(pristine, NAMING_SEED, epoch, NAMING_STEPS)):
            # About the normalisation that the whole model applies, without its split by colour.
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
    train_stage("naming", folder, parts, NAMING_EPOCHS, run_epoch)
    for layer, trained in zip(network, layers, strict=True):
        convolution, norm, _ = trained.children()
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = folded(convolution.state_dict()["weight"], norm)
        layer.load_state_dict({"0.weight": weight, "0.bias": bias})


# --- ratings -------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A convolution without bias and the batch norm after it."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        convolution.bias = None
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.norm(self.convolution(features))
        return out


def unfold(network: SemanticNet, init: Path) -> None:
    """Put EfficientNet-Lite0's published weights into the semantic network, its batch norms as layers again.

    Trained with their statistics frozen, the network learns its few hundred pictures by heart: the noise of
    a batch's own statistics keeps it from that.
    """
    parts = {
        "_expand_conv": ("_bn0", "expand.0"),
        "_depthwise_conv": ("_bn1", "depthwise.0"),
        "_project_conv": ("_bn2", "project"),
    }
    published = torch.load(init, weights_only=True, map_location="cpu")
    wanted = {"stem.0": ("_conv_stem", "_bn0")}
    for index in range(len(network.blocks)):
        for convolution, (norm, ours) in parts.items():
            there = f"_blocks.{index}.{convolution}"
            if f"{there}.weight" in published:
                wanted[f"blocks.{index}.{ours}"] = (there, f"_blocks.{index}.{norm}")
    for ours, names in wanted.items():
        layer = network.get_submodule(ours)
        assert isinstance(layer, nn.Conv2d)
        pair = Normed(layer)
        for part, name in zip((pair.convolution, pair.norm), names, strict=True):
            part.load_state_dict({key: published[f"{name}.{key}"] for key in part.state_dict()})
        _replace(network, ours, pair)


def fold(network: SemanticNet) -> None:
    """Undo `unfold`: the same network, each batch norm folded into the convolution before it."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Normed):
            weight, bias = folded(layer.convolution.weight, layer.norm)
            layer.convolution.weight, layer.convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
            _replace(network, name, layer.convolution)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


class SemanticRater(nn.Module):
    """The semantic network with a linear head on its maps' moments: what DBCNNLite is without distortions.

    Standardised and bounded as there, so that the head's weights fit there.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: SemanticNet) -> None:
        super().__init__()
        self.network = network
        moments = 2 * sum(LEVEL_CHANNELS)
        self.norm = nn.BatchNorm1d(moments, affine=False)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(moments, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        register_imagenet(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB, 0..1, to scores (N,)."""
        everywhere = torch.ones_like(images[:, :1])
        levels = self.network((images - self.mean) / self.std)
        moments = torch.cat([masked_moments(level, everywhere) for level in levels], dim=1)
        score: Tensor = self.head(self.dropout(bounded(self.norm(moments)))).squeeze(1)
        return RATING_CENTRE + RATING_SPREAD * score


def learn_semantics(rater: SemanticRater, rated: Rated, seed: int, folder: Path) -> None:
    """Ratings alone."""
    steps = len(rated.names) // RATING_BATCH
    optimiser, schedule = optimiser_of(
        {rater.network: SEMANTIC_RATE, rater.head: SEMANTIC_HEAD_RATE}, SEMANTIC_EPOCHS * steps
    )

    def run_epoch(epoch: int) -> dict[str, float]:
        rater.train()
        total = 0.0
        for images, ratings in made_ahead(RatedBatches(rated, seed, epoch, RATING_BATCH)):
            loss = rating_loss(rater(images), ratings)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        return {"rating_loss": total / steps}

    parts: dict[str, Part] = {"rater": rater, "optimiser": optimiser, "schedule": schedule}
    train_stage("semantic", folder, parts, SEMANTIC_EPOCHS, run_epoch)


def optimiser_of(rates: dict[nn.Module, float], steps: int) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW whose rates rise for a quarter of the steps to those given, and fall to nothing."""
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    return optimiser, OneCycleLR(optimiser, list(rates.values()), total_steps=steps, pct_start=0.25)


@torch.no_grad()
def put_together(distortion: DistortionNet, rater: SemanticRater, rated: Rated) -> DBCNNLite:
    """DBCNNLite that scores as the rater does: what it has beside it starts with weights of zero.

    What is pooled of the distortion network and of the products is standardised by the whole pictures.
    """
    model = DBCNNLite()
    channels_last(model)
    model.distortion, model.semantic = distortion, rater.network
    model.eval()
    pooled = []
    for image in rated.images:
        picture = picture_tensor(image)
        pooled.append(model.pool(model.maps(picture), torch.ones_like(picture[:, :1])))
    features = torch.cat(pooled)
    model.pooled_mean.copy_(features.mean(0))
    model.pooled_std.copy_(features.std(0) + 1e-4)
    nn.init.zeros_(model.head.weight)
    mean, variance = rater.norm.running_mean, rater.norm.running_var
    assert mean is not None and variance is not None
    own = slice(model.products, model.products + len(mean))
    model.pooled_mean[own] = mean
    model.pooled_std[own] = (variance + rater.norm.eps).sqrt()
    model.head.weight[:, own] = rater.head.weight
    model.head.bias.copy_(rater.head.bias)
    return model


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error in units of the ratings' spread, plus one minus Pearson's correlation."""
    squared = ((scores - ratings) / RATING_SPREAD).square().mean()
    correlation = F.cosine_similarity(scores - scores.mean(), ratings - ratings.mean(), dim=0)
    return squared + 1 - correlation


def ranking_loss(scores: Tensor, severities: Tensor) -> Tensor:
    """Hinge on every pair of rungs of a ladder: severity must cost RANK_MARGIN points for its whole range.

    Args:
        scores, severities: (RUNGS,) float32; severities 0..1, rising.
    """
    better, worse = torch.triu_indices(len(scores), len(scores), offset=1)
    gap = scores[better] - scores[worse]
    wanted = RANK_MARGIN * (severities[worse] - severities[better])
    return ((wanted - gap) / RATING_SPREAD).clamp_min(0).mean()


def learn_rankings(model: DBCNNLite, rated: Rated, pristine: list[Image], seed: int, folder: Path) -> None:
    """What the distortion network sees takes points off ladders, and none off rated pictures."""
    model.eval()
    model.semantic.requires_grad_(False)
    settled = model.head.weight[0] != 0  # the semantic network's; the others start at nothing
    model.head.weight.register_hook(lambda gradient: gradient * ~settled)
    trained = [*model.distortion.parameters(), *model.project.parameters(), model.head.weight]
    optimiser = torch.optim.AdamW(trained, weight_decay=0)  # which would move the settled weights, too
    schedule = OneCycleLR(optimiser, RANKING_RATE, total_steps=RANKING_EPOCHS * RANKING_STEPS, pct_start=0.25)

    def run_epoch(epoch: int) -> dict[str, float]:
        crops = itertools.chain.from_iterable(
            made_ahead(RatedBatches(rated, seed, part, RANKING_RATED))
            for part in itertools.count(epoch * 100)
        )
        ladders = made_ahead(Ladders(pristine, seed, epoch, RANKING_STEPS * RANKING_LADDERS))
        totals = np.zeros(2)
        for _ in range(RANKING_STEPS):
            ranking = torch.stack([ranking_of(model, next(ladders)) for _ in range(RANKING_LADDERS)]).mean()
            images, _ = next(crops)
            values = model.standardised(model.pool(model.maps(images), torch.ones_like(images[:, :1])))
            staying = (values[:, ~settled] @ model.head.weight[0, ~settled]).square().mean()
            optimiser.zero_grad()
            (ranking + STAYING_WEIGHT * staying).backward()
            optimiser.step()
            schedule.step()
            totals += ranking.item(), staying.item()
        ranking_mean, staying_mean = (totals / RANKING_STEPS).tolist()
        return {"ranking_loss": ranking_mean, "staying_loss": staying_mean}

    parts: dict[str, Part] = {"model": model, "optimiser": optimiser, "schedule": schedule}
    train_stage("ranking", folder, parts, RANKING_EPOCHS, run_epoch)


@torch.no_grad()
def settle(model: DBCNNLite, rated: Rated) -> None:
    """Keep DISTORTION_SHARE of what the ranking stage has learned, and bring scores to the ratings' scale.

    The second stage's scores, made under much noise, are right in order and too close together.
    """
    own = slice(model.products, model.products + 2 * sum(LEVEL_CHANNELS))
    share = torch.full_like(model.head.weight, DISTORTION_SHARE)
    share[:, own] = 1
    model.head.weight.mul_(share)
    scores = []
    for image in rated.images:
        picture = picture_tensor(image)
        scores.append(model(picture, torch.ones_like(picture[:, :1])).item())
    slope, offset = np.polyfit(scores, rated.ratings, 1)
    model.head.weight.mul_(slope)
    model.head.bias.copy_(slope * model.head.bias + ((slope - 1) * RATING_CENTRE + offset) / RATING_SPREAD)


def ranking_of(model: DBCNNLite, ladder: Ladder) -> Tensor:
    """`ranking_loss` of one ladder."""
    mask = torch.from_numpy(ladder.mask).expand(RUNGS, 1, -1, -1)
    return ranking_loss(model(to_tensor(ladder.images), mask), torch.from_numpy(ladder.severities))


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """As float16, which halves the file."""
    beside = path.with_suffix(".tmp")
    save_file({key: value.half().contiguous() for key, value in state.items()}, beside)
    os.replace(beside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of live_challenge/ etc.")
    parser.add_argument("--init", type=Path, required=True, help="efficientnet-lite0 .pth")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and results")
    parser.add_argument("--all", action="store_true", help="train on the held-out pictures too")
    parser.add_argument("--seed", type=int, default=1, help="of all stages but the first (1)")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)

    rated = read_rated(arguments.data / "live_challenge")
    held = np.array([is_held_out(name) and not arguments.all for name in rated.names])
    training, held_out = rated.only(~held), rated.only(held)
    pristine = read_pristine(arguments.data, training)
    counts = f"{len(training.names)} pictures trained on, {len(held_out.names)} held out"
    print(f"{counts}, {len(pristine)} untouched pictures", flush=True)

    distortion = DistortionNet()
    channels_last(distortion)
    learn_distortions(distortion, pristine, folder)
    torch.manual_seed(arguments.seed)
    network = SemanticNet()
    unfold(network, arguments.init)
    channels_last(network)
    rater = SemanticRater(network)
    learn_semantics(rater, training, arguments.seed, folder)
    model = put_together(distortion, rater, training)
    learn_rankings(model, training, pristine, arguments.seed, folder)
    settle(model, training)
    fold(model.semantic)
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

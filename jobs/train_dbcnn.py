"""Train DB-CNN-Lite on people's ratings and on pictures spoiled on purpose.

    python -m jobs.train_dbcnn --data DIR --init efficientnet-lite0-57934424.pth --out FOLDER [--all]

DIR holds `live_challenge/` (images/, mos.csv, NOTICE.txt) and `kodak24/`; `portraits_1024/` and
`faces/` are looked at after training only. Stages:

1. naming: the distortion network alone learns to tell 39 synthetic distortions apart.
2. head: ridge regression of the ratings on the moments of both networks as they are.
3. rating, once for each seed: everything together learns the ratings, and that the same crop, spoiled
   further, scores less, whatever lies outside its mask.
4. The seeds' weights are averaged: they started from one point, and their mean errs less than each.

A fifth of the rated pictures, chosen by a hash of the name, is never trained on in any stage, unless
`--all` says so. A run that was killed goes on from its last epoch with the same command. FOLDER ends
up with `dbcnn-lite.safetensors`, `dbcnn-lite.md` (the model card), `figures.json`, and the curves of each
stage as `<stage>.csv`.
"""

from __future__ import annotations

import argparse
import copy
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
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from faceq.dbcnn import (
    RATING_CENTRE,
    RATING_SPREAD,
    SCNN_CHANNELS,
    SCNN_LAYERS,
    DBCNNLite,
    DistortionNet,
    load_dbcnn_lite,
    picture_tensor,
)
from faceq.distortions import Image
from jobs.train_data import (
    RUNGS,
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
from jobs.train_figures import agreement, measure, write_card, write_curves

NAMING_SEED = 20261125
NAMING_EPOCHS, NAMING_STEPS = 8, 100

BATCH_NORM_EPS = 1e-3  # EfficientNet's

RIDGE = 1000.0  # of standardised moments; by cross-validation on the training pictures
RATING_BATCH = 16
RANK_MARGIN = 30.0  # points of rating that the whole range of severity must cost
RANKING_WEIGHT = 0.3
SEMANTIC_RATE, DISTORTION_RATE, HEAD_RATE = 3e-4, 3e-5, 3e-4
WEIGHT_DECAY = 0.02
RATING_EPOCHS = 12
AVERAGE_DECAY = 0.98  # of the running average of the weights: about a whole epoch

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
        self.norm = nn.BatchNorm2d(convolution.out_channels, eps=BATCH_NORM_EPS)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.norm(self.convolution(features))
        return out


def unfold(model: DBCNNLite, init: Path) -> None:
    """Put EfficientNet-Lite0's published weights into the semantic network, its batch norms as layers again.

    The norms keep their published statistics; training moves their factors and shifts. Were they folded, one
    step would change channels with small factors out of proportion.
    """
    parts = {
        "_expand_conv": ("_bn0", "expand.0"),
        "_depthwise_conv": ("_bn1", "depthwise.0"),
        "_project_conv": ("_bn2", "project"),
    }
    published = torch.load(init, weights_only=True, map_location="cpu")
    wanted = {"stem.0": ("_conv_stem", "_bn0")}
    for index in range(len(model.semantic.blocks)):
        for convolution, (norm, ours) in parts.items():
            there = f"_blocks.{index}.{convolution}"
            if f"{there}.weight" in published:
                wanted[f"blocks.{index}.{ours}"] = (there, f"_blocks.{index}.{norm}")
    for ours, names in wanted.items():
        layer = model.semantic.get_submodule(ours)
        assert isinstance(layer, nn.Conv2d)
        pair = Normed(layer)
        for part, name in zip((pair.convolution, pair.norm), names, strict=True):
            part.load_state_dict({key: published[f"{name}.{key}"] for key in part.state_dict()})
        _replace(model.semantic, ours, pair)


def fold(model: DBCNNLite) -> None:
    """Undo `unfold`: the same network, each batch norm folded into the convolution before it."""
    for name, layer in list(model.semantic.named_modules()):
        if isinstance(layer, Normed):
            weight, bias = folded(layer.convolution.weight, layer.norm)
            layer.convolution.weight, layer.convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
            _replace(model.semantic, name, layer.convolution)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


@torch.no_grad()
def start_head(model: DBCNNLite, rated: Rated) -> None:
    """Standardise what is pooled of the whole pictures, and set the moments' weights by ridge regression.

    The products' weights start at zero: their side of the semantic network is random still.
    """
    model.eval()
    pooled = []
    for image in rated.images:
        picture = picture_tensor(image)
        pooled.append(model.pool(model.maps(picture), torch.ones_like(picture[:, :1])))
    features = torch.cat(pooled)
    model.pooled_mean.copy_(features.mean(0))
    model.pooled_std.copy_(features.std(0) + 1e-4)
    moments = model.standardised(features)[:, model.products :].double()
    ratings = (torch.from_numpy(rated.ratings).double() - RATING_CENTRE) / RATING_SPREAD
    gram = moments @ moments.T + RIDGE * torch.eye(len(moments), dtype=torch.float64)
    weight = moments.T @ torch.linalg.solve(gram, ratings - ratings.mean())
    nn.init.zeros_(model.head.weight)
    model.head.weight[0, model.products :] = weight.float()
    nn.init.constant_(model.head.bias, ratings.mean().item())


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


def learn_ratings(
    model: DBCNNLite, rated: Rated, pristine: list[Image], seed: int, epochs: int, folder: Path
) -> None:
    """Ratings and rankings together; leaves the running average of the weights in the model."""
    steps = len(rated.names) // RATING_BATCH
    groups = [
        {"params": list(part.parameters()), "lr": rate, "weight_decay": WEIGHT_DECAY}
        for part, rate in (
            (model.semantic, SEMANTIC_RATE),
            (model.distortion, DISTORTION_RATE),
            (model.project, SEMANTIC_RATE),
            (model.head, HEAD_RATE),
        )
    ]
    optimiser = torch.optim.AdamW(groups)
    schedule = OneCycleLR(
        optimiser,
        [SEMANTIC_RATE, DISTORTION_RATE, SEMANTIC_RATE, HEAD_RATE],
        total_steps=epochs * steps,
        pct_start=0.25,
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))

    def run_epoch(epoch: int) -> dict[str, float]:
        model.eval()  # batch norms keep their statistics
        model.dropout.train()
        crops = made_ahead(RatedBatches(rated, seed, epoch, RATING_BATCH))
        ladders = made_ahead(Ladders(pristine, seed, epoch, steps))
        totals = np.zeros(2)
        for (images, ratings), ladder in zip(crops, ladders, strict=True):
            rating = rating_loss(model(images, torch.ones_like(images[:, :1])), ratings)
            mask = torch.from_numpy(ladder.mask).expand(RUNGS, 1, -1, -1)
            ranking = ranking_loss(model(to_tensor(ladder.images), mask), torch.from_numpy(ladder.severities))
            optimiser.zero_grad()
            (rating + RANKING_WEIGHT * ranking).backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            totals += rating.item(), ranking.item()
        rating_mean, ranking_mean = totals / steps
        return {"rating_loss": rating_mean, "ranking_loss": ranking_mean}

    parts: dict[str, Part] = {"model": model, "average": average}
    parts |= {"optimiser": optimiser, "schedule": schedule}
    train_stage(f"rating-{seed}", folder, parts, epochs, run_epoch)
    model.load_state_dict(average.module.state_dict())


def averaged(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several states of one network.

    Source: Wortsman et al., "Model soups", ICML 2022.
    """
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the rating stage (1 2)")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)

    rated = read_rated(arguments.data / "live_challenge")
    held = np.array([is_held_out(name) and not arguments.all for name in rated.names])
    training, held_out = rated.only(~held), rated.only(held)
    pristine = read_pristine(arguments.data, training)
    counts = f"{len(training.names)} pictures trained on, {len(held_out.names)} held out"
    print(f"{counts}, {len(pristine)} untouched pictures", flush=True)

    torch.manual_seed(NAMING_SEED)
    model = DBCNNLite()
    channels_last(model)
    learn_distortions(model.distortion, pristine, folder)
    unfold(model, arguments.init)
    start_head(model, training)
    tuned = []
    for seed in arguments.seeds:
        one = copy.deepcopy(model)
        learn_ratings(one, training, pristine, seed, RATING_EPOCHS, folder)
        fold(one)
        tuned.append(one.state_dict())
        write_weights(tuned[-1], folder / f"seed-{seed}.safetensors")
    write_weights(averaged(tuned), folder / "dbcnn-lite.safetensors")

    held_out_too = None if arguments.all else held_out
    figures = measure(folder / "dbcnn-lite.safetensors", held_out_too, arguments.data)
    if held_out_too:
        singly = [load_dbcnn_lite(folder / f"seed-{seed}.safetensors") for seed in arguments.seeds]
        figures["held_out_by_seed"] = [agreement(one, held_out) for one in singly]
    print(json.dumps(figures, indent=1))
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_curves(folder)
    notice = (arguments.data / "live_challenge" / "NOTICE.txt").read_text()
    write_card(folder / "dbcnn-lite.md", figures, notice, counts, arguments.seeds)


if __name__ == "__main__":
    main()

"""Train DB-CNN-Lite on people's ratings and on pictures spoiled on purpose.

    python -m jobs.train_dbcnn --data DIR --init efficientnet-lite0-57934424.pth --out FOLDER

DIR holds `live_challenge/` (images/, mos.csv, NOTICE.txt) and `kodak24/`; `portraits_1024/` and
`faces/` are looked at after training only. Three stages:

1. The distortion network alone learns to name kind and level of synthetic distortions.
2. Everything together learns the ratings, and that the same crop, degraded further, scores less.
3. The same, but what lies outside the mask is degraded on its own: only the inside may count.

A fifth of the rated pictures, chosen by a hash of the name, is never trained on in any stage.
A run that was killed goes on from its last epoch with the same command. FOLDER ends up with
`dbcnn-lite.safetensors`, `dbcnn-lite.md` (the model card) and `figures.json`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from faceq.dbcnn import RATING_SPREAD, SCNN_CHANNELS, DBCNNLite, DistortionNet, load_dbcnn_lite
from faceq.distortions import DISTORTIONS, LADDERS, Image

SEED = 20261123
PRISTINE_FROM_LIVE = 100  # best-rated training pictures that join Kodak's as untouched ones

NAMING_EPOCHS, NAMING_STEPS, NAMING_BATCH, NAMING_SIDE = 6, 100, 64, 112
NAMING_CLASSES = 1 + 5 * len(DISTORTIONS)

RATING_BATCH = 16
RATING_SIDES = (256, 320, 384)
RANKED_CROPS = 2  # a step, each at RANKED_SEVERITIES levels of one kind
RANKED_SEVERITIES = 3
RANK_MARGIN = 4.0  # points of rating that one more level of severity must cost
FOCUS_EPOCHS = 2
FACE_SIDE = 256  # what faces are scored at

Part = nn.Module | torch.optim.Optimizer | OneCycleLR  # what has a state to keep


@dataclass(frozen=True)
class Rated:
    """Rated pictures: their names, RGB uint8 images, and (N,) float32 ratings 0..100."""

    names: list[str]
    images: list[Image]
    ratings: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_]) -> Rated:
        where = np.flatnonzero(keep)
        return Rated([self.names[i] for i in where], [self.images[i] for i in where], self.ratings[where])


def read_rgb(path: Path) -> Image:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"train: {path} is missing or no picture")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_rated(folder: Path) -> Rated:
    with (folder / "mos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["image"] for row in rows]
    images = [read_rgb(folder / "images" / name) for name in names]
    return Rated(names, images, np.array([row["mos"] for row in rows], np.float32))


def is_held_out(name: str) -> bool:
    """A fifth of all names, the same on every machine and for every version of the data."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 5 == 0


def resize(image: Image, side: int) -> Image:
    """To a square of `side` pixels; by area when shrinking, which does not alias."""
    smaller = side < min(image.shape[:2])
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)


def random_crop(image: Image, side: int, rng: np.random.Generator) -> Image:
    """A square of `side` pixels, or the largest that fits, flipped half of the time."""
    side = min(side, *image.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    crop = image[top : top + side, left : left + side]
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def ellipse_mask(
    side: int, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.float32]:
    """(side, side) float32, 1 inside; centre and radii (x, y) as parts of the side."""
    mask = np.zeros((side, side), np.float32)
    at, axes = (tuple(round(side * part) for part in pair) for pair in (centre, radii))
    cv2.ellipse(mask, at, axes, angle, 0, 360, 1.0, thickness=-1)
    return mask


def random_mask(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """All ones half of the time, else an ellipse about as large as a face in its crop."""
    if rng.random() < 0.5:
        return np.ones((side, side), np.float32)
    x, y, wide, high = rng.uniform((0.4, 0.4, 0.25, 0.25), (0.6, 0.6, 0.5, 0.5))
    return ellipse_mask(side, (x, y), (wide, high), rng.uniform(0, 180))


def to_tensor(images: list[Image]) -> Tensor:
    """(N, 3, H, W) float32, 0..1."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels.contiguous(memory_format=torch.channels_last)


def mask_tensor(masks: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(masks))[:, None]


class NamingBatches(Dataset[tuple[Tensor, Tensor]]):
    """Small crops, each spoiled in one way, with kind and level as one class; class 0: untouched.

    Item i of an epoch depends on SEED, epoch and i only, so a resumed run sees what it would have.
    """

    def __init__(self, pristine: list[Image], epoch: int) -> None:
        self.pristine, self.epoch = pristine, epoch

    def __len__(self) -> int:
        return NAMING_STEPS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((SEED, 1, self.epoch, index))
        classes = rng.integers(0, NAMING_CLASSES, NAMING_BATCH)
        crops = [self._spoiled(int(label), rng) for label in classes]
        return to_tensor(crops), torch.from_numpy(classes)

    def _spoiled(self, label: int, rng: np.random.Generator) -> Image:
        image = self.pristine[rng.integers(len(self.pristine))]
        crop = random_crop(image, int(rng.integers(NAMING_SIDE, 2 * NAMING_SIDE)), rng)
        crop = resize(crop, NAMING_SIDE)
        if label == 0:
            return crop
        kind = list(DISTORTIONS.values())[(label - 1) // 5]
        return kind(crop, 1 + (label - 1) % 5, int(rng.integers(2**31)))


class RatingBatches(Dataset[tuple[Tensor, ...]]):
    """Rated crops and ranked crops, each with its masks.

    An item is (images, masks, ratings, ranked images, ranked masks, severities); the ranked ones
    come as RANKED_CROPS groups of RANKED_SEVERITIES, severity rising within a group. With `focus`,
    what lies outside a ranked crop's mask has severities of its own, which must not matter.
    """

    def __init__(self, rated: Rated, pristine: list[Image], epoch: int, focus: bool) -> None:
        self.rated, self.pristine, self.epoch, self.focus = rated, pristine, epoch, focus
        self.order = np.random.default_rng((SEED, 2, epoch)).permutation(len(rated.names))

    def __len__(self) -> int:
        return len(self.order) // RATING_BATCH

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng((SEED, 3, self.epoch, index))
        chosen = self.order[index * RATING_BATCH : (index + 1) * RATING_BATCH]
        side = int(rng.choice(RATING_SIDES))
        crops = [self._rated_crop(self.rated.images[i], side, rng) for i in chosen]
        masks = [random_mask(side, rng) for _ in chosen]
        ranked_masks = [random_mask(FACE_SIDE, rng) for _ in range(RANKED_CROPS)]
        ladders = [self._ladder(mask, rng) for mask in ranked_masks]
        ranked = [image for images, _ in ladders for image in images]
        severities = np.stack([severities for _, severities in ladders])
        return (
            to_tensor(crops),
            mask_tensor(masks),
            torch.from_numpy(self.rated.ratings[chosen]),
            to_tensor(ranked),
            mask_tensor(ranked_masks).repeat_interleave(RANKED_SEVERITIES, dim=0),
            torch.from_numpy(severities),
        )

    def _rated_crop(self, image: Image, side: int, rng: np.random.Generator) -> Image:
        """Most of a picture; not enlarged, which would make it softer than people saw it."""
        full = min(image.shape[:2])
        least = min(max(0.6 * full, side), full)
        return resize(random_crop(image, int(rng.uniform(least, full + 1)), rng), side)

    def _ladder(
        self, mask: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[list[Image], NDArray[np.int64]]:
        """One crop at several severities of one kind, degraded at its own size, then resized.

        That is how faces arrive: spoiled at the size they were taken at, then brought to 256.
        """
        image = self.pristine[rng.integers(len(self.pristine))]
        crop = random_crop(image, int(rng.integers(200, 450)), rng)
        degrade = list(LADDERS.values())[rng.integers(len(LADDERS))]
        severities = np.sort(rng.choice(6, RANKED_SEVERITIES, replace=False))
        seed = int(rng.integers(2**31))
        rungs = [resize(degrade(crop, int(severity), seed), FACE_SIDE) for severity in severities]
        if self.focus:
            others = rng.integers(0, 6, RANKED_SEVERITIES)
            around = [resize(degrade(crop, int(severity), seed), FACE_SIDE) for severity in others]
            inside = mask[..., None] > 0
            rungs = [np.where(inside, rung, other) for rung, other in zip(rungs, around, strict=True)]
        return rungs, severities


def batches(dataset: Dataset[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Items in order, made ahead of time by another process."""
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, worker_init_fn=lambda _: cv2.setNumThreads(0)
    )
    yield from loader


def train_stage(
    name: str,
    folder: Path,
    parts: dict[str, Part],
    epochs: int,
    run_epoch: Callable[[int], str],
) -> None:
    """Run the epochs that are not done yet, keeping the state of all parts after each of them."""
    checkpoint = folder / f"{name}.checkpoint.pt"
    done = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["epochs"] != epochs:
            raise ValueError(
                f"train: {checkpoint} was made for {state['epochs']} epochs, not {epochs}: use another --out"
            )
        done = state["done"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    for epoch in range(done, epochs):
        start = time.monotonic()
        torch.manual_seed(SEED + epoch)  # dropout's draws, also after a resume
        said = run_epoch(epoch)
        print(f"{name} {epoch + 1}/{epochs}: {said}, {time.monotonic() - start:.0f} s", flush=True)
        state = {key: part.state_dict() for key, part in parts.items()}
        beside = checkpoint.with_suffix(".tmp")
        torch.save(state | {"epochs": epochs, "done": epoch + 1}, beside)
        os.replace(beside, checkpoint)


def learn_distortions(network: DistortionNet, pristine: list[Image], folder: Path) -> None:
    """Stage 1: name kind and level of synthetic distortions."""
    classifier = nn.Linear(SCNN_CHANNELS, NAMING_CLASSES)
    optimiser = torch.optim.AdamW([*network.parameters(), *classifier.parameters()], lr=3e-3)
    schedule = OneCycleLR(optimiser, 3e-3, total_steps=NAMING_EPOCHS * NAMING_STEPS)

    def run_epoch(epoch: int) -> str:
        network.train()
        right = 0.0
        for images, classes in batches(NamingBatches(pristine, epoch)):
            # About the normalisation that the whole model applies, without its split by colour.
            logits = classifier(network((images - 0.45) / 0.225).mean(dim=(2, 3)))
            optimiser.zero_grad()
            F.cross_entropy(logits, classes).backward()
            optimiser.step()
            schedule.step()
            right += (logits.argmax(1) == classes).float().mean().item()
        return f"{right / NAMING_STEPS:.3f} of {NAMING_CLASSES} classes named rightly"

    parts: dict[str, Part] = {"network": network, "classifier": classifier}
    parts |= {"optimiser": optimiser, "schedule": schedule}
    train_stage("naming", folder, parts, NAMING_EPOCHS, run_epoch)


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error in units of the ratings' spread, plus one minus Pearson's correlation."""
    squared = ((scores - ratings) / RATING_SPREAD).square().mean()
    correlation = F.cosine_similarity(scores - scores.mean(), ratings - ratings.mean(), dim=0)
    return squared + 1 - correlation


def ranking_loss(scores: Tensor, severities: Tensor) -> Tensor:
    """Hinge on every pair within a group: each level of severity must cost RANK_MARGIN.

    Args:
        scores: (G, S) float32, one row a group of the same crop.
        severities: (G, S) int64, rising along a row.
    """
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    gap = scores[:, better] - scores[:, worse]
    wanted = RANK_MARGIN * (severities[:, worse] - severities[:, better])
    return ((wanted - gap) / RATING_SPREAD).clamp_min(0).mean()


def freeze(model: DBCNNLite) -> None:
    """Hold what so few pictures cannot improve: all batch statistics, and the earliest filters.

    The filters before 1/8 also cost half of a step on a CPU.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for early in (model.semantic.stem, *model.semantic.blocks[:3]):
        early.requires_grad_(False)


def learn_ratings(
    model: DBCNNLite, rated: Rated, pristine: list[Image], epochs: int, folder: Path, focus: bool
) -> None:
    """Stages 2 and 3: ratings and rankings together; leaves the weights' running average in the model."""
    name = "focus" if focus else "rating"
    rates = [1e-4, 3e-4] if focus else [3e-4, 1e-3]  # backbone, everything else
    freeze(model)
    backbone = [weight for weight in model.semantic.parameters() if weight.requires_grad]
    known = {id(weight) for weight in model.semantic.parameters()}
    fresh = [weight for weight in model.parameters() if id(weight) not in known]
    optimiser = torch.optim.AdamW([{"params": backbone}, {"params": fresh}], weight_decay=0.02)
    steps = epochs * len(RatingBatches(rated, pristine, 0, focus))
    schedule = OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.2)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))

    def run_epoch(epoch: int) -> str:
        model.train()
        freeze(model)
        totals = np.zeros(2)
        data = RatingBatches(rated, pristine, epoch, focus)
        for images, masks, ratings, ranked, ranked_masks, severities in batches(data):
            rating = rating_loss(model(images, masks), ratings)
            ranking = ranking_loss(model(ranked, ranked_masks).view(severities.shape), severities)
            optimiser.zero_grad()
            (rating + ranking).backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(model)
            totals += rating.item(), ranking.item()
        rating_mean, ranking_mean = totals / len(data)
        return f"rating loss {rating_mean:.3f}, ranking loss {ranking_mean:.3f}"

    parts: dict[str, Part] = {"model": model, "average": average}
    parts |= {"optimiser": optimiser, "schedule": schedule}
    train_stage(name, folder, parts, epochs, run_epoch)
    model.load_state_dict(average.module.state_dict())


def write_weights(model: nn.Module, path: Path) -> None:
    """As float16, which costs the scores less than 0.1 and halves the file."""
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    beside = path.with_suffix(".tmp")
    save_file(state, beside)
    os.replace(beside, path)


def score(
    model: DBCNNLite, images: list[Image], mask: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(N,) scores of pictures of one size, under one mask or as a whole."""
    if mask is None:
        mask = np.ones(images[0].shape[:2], np.float32)
    scores = []
    with torch.inference_mode():
        for start in range(0, len(images), 16):
            some = to_tensor(images[start : start + 16])
            scores.append(model(some, mask_tensor([mask] * len(some))))
    return np.asarray(torch.cat(scores).numpy(), np.float32)


def rating_figures(model: DBCNNLite, rated: Rated, side: int) -> dict[str, float]:
    """Agreement with people on whole pictures: correlations and the error in points."""
    scores = score(model, [resize(image, side) for image in rated.images])
    return {
        "srcc": float(spearmanr(scores, rated.ratings).statistic),
        "plcc": float(pearsonr(scores, rated.ratings).statistic),
        "rmse": float(np.sqrt(np.mean((scores - rated.ratings) ** 2))),
    }


def ladder_figures(model: DBCNNLite, portraits: list[Image]) -> dict[str, dict[str, object]]:
    """How reliably a portrait's score falls as it is degraded, inside an ellipse on the face.

    Per kind: the mean over pictures of Spearman's correlation of severity 0..5 and score (-1 is
    best), and the mean score at each severity.
    """
    mask = ellipse_mask(FACE_SIDE, (0.5, 0.53), (0.27, 0.36))
    figures: dict[str, dict[str, object]] = {}
    for kind, degrade in LADDERS.items():
        scores = []
        for index, portrait in enumerate(portraits):
            taken = resize(portrait, 384)
            rungs = [resize(degrade(taken, severity, index), FACE_SIDE) for severity in range(6)]
            scores.append(score(model, rungs, mask))
        ranks = [spearmanr(range(6), row).statistic for row in scores]
        means = [round(float(value), 2) for value in np.mean(scores, axis=0)]
        figures[kind] = {"spearman": float(np.mean(ranks)), "mean_scores": means}
    return figures


def measure(weights: Path, held_out: Rated, data: Path) -> dict[str, object]:
    """Figures of the file as it will be shipped."""
    model = load_dbcnn_lite(weights)
    figures: dict[str, object] = {
        f"held_out_{side}": rating_figures(model, held_out, side) for side in (384, 256)
    }
    portraits = sorted((data / "portraits_1024").glob("*.*"))
    if portraits:
        figures["ladders"] = ladder_figures(model, [read_rgb(path) for path in portraits])
    for name in ("high_quality", "low_quality"):
        path = data / "faces" / f"{name}.jpg"
        if path.is_file():
            figures[name] = float(score(model, [resize(read_rgb(path), FACE_SIDE)])[0])
    return figures


def write_card(path: Path, figures: dict[str, object], notice: str, counts: str) -> None:
    """The model card: what it learned from, how, what was measured, and whom to cite."""
    copyright_notice = notice.split("START", 1)[1].split("\n", 1)[1].split("-----------COPY", 1)[0]
    path.write_text(
        f"""# DB-CNN-Lite

Scores how good a picture, or the part of it under a mask, looks to people: 0 (bad) to 100
(excellent), the scale of LIVE In the Wild's ratings. Written by `python -m jobs.train_dbcnn` on
{date.today():%Y-%m-%d}; the networks are in `faceq/dbcnn.py`.

## What it learned from
- Start of the semantic network: EfficientNet-Lite0, ImageNet (Apache-2.0), sha256
  `579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db`.
- Ratings: LIVE In the Wild Image Quality Challenge Database, {counts}.
- Untouched pictures for synthetic distortions: the Kodak test set and the {PRISTINE_FROM_LIVE}
  best-rated training pictures.
- Held out: pictures whose name hashes so (`int(blake2b(name, digest_size=8)) % 5 == 0`). No stage
  was trained on them, and no epoch was picked by them; but settings were revised after looking at
  figures like those below, held-out ones too, so expect a little less on other pictures.
- Seed {SEED}. Shipped weights are the running average of the last epochs, as float16.

## What was measured
`held_out_384`, `held_out_256`: whole pictures resized to that side. `ladders`: portraits at 384
pixels degraded, resized to 256, scored inside an ellipse on the face; Spearman's correlation of
severity 0..5 with the score, mean over pictures (-1 is best), and the mean score by severity.

```json
{json.dumps(figures, indent=1)}
```

## Limits
Rated pictures are of everyday scenes, not of faces. Synthetic severities are ordered, not rated:
that a degraded picture scores less is learned, how much less is not. Scores are not clipped and
may leave 0..100. Deep features see past the mask's edge, so the surroundings of a face still move
its score, though less than with a mask of ones.

## Cite, and the notice that goes with the ratings
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


def start_backbone(model: DBCNNLite, init: Path) -> None:
    """Load EfficientNet-Lite0's published weights, whose keys follow another naming."""
    parts = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    state = {}
    for key, value in torch.load(init, weights_only=True, map_location="cpu").items():
        first, *rest = key.split(".")
        if first == "_blocks":
            state[".".join(["blocks", rest[0], parts[rest[1]], *rest[2:]])] = value
        elif first in ("_conv_stem", "_bn0"):
            state[".".join(["stem", "0" if first == "_conv_stem" else "1", *rest])] = value
    model.semantic.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of live_challenge/ etc.")
    parser.add_argument("--init", type=Path, required=True, help="efficientnet-lite0 .pth")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and results")
    parser.add_argument("--epochs", type=int, default=14, help="of the rating stage")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    rated = read_rated(arguments.data / "live_challenge")
    held = np.array([is_held_out(name) for name in rated.names])
    training, held_out = rated.only(~held), rated.only(held)
    best = np.argsort(-training.ratings)[:PRISTINE_FROM_LIVE]
    pristine = [read_rgb(path) for path in sorted((arguments.data / "kodak24").glob("*.png"))]
    pristine += [training.images[i] for i in best]
    counts = f"{len(training.names)} pictures trained on, {len(held_out.names)} held out"
    print(f"{counts}, {len(pristine)} untouched pictures", flush=True)

    torch.manual_seed(SEED)
    model = DBCNNLite()
    start_backbone(model, arguments.init)
    learn_distortions(model.distortion, pristine, arguments.out)
    learn_ratings(model, training, pristine, arguments.epochs, arguments.out, focus=False)
    learn_ratings(model, training, pristine, FOCUS_EPOCHS, arguments.out, focus=True)
    write_weights(model, arguments.out / "dbcnn-lite.safetensors")

    figures = measure(arguments.out / "dbcnn-lite.safetensors", held_out, arguments.data)
    print(json.dumps(figures, indent=1))
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    notice = (arguments.data / "live_challenge" / "NOTICE.txt").read_text()
    write_card(arguments.out / "dbcnn-lite.md", figures, notice, counts)


if __name__ == "__main__":
    main()

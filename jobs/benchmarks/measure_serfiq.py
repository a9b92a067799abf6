"""Measure the accuracy and speed of SER-FIQ's closed form compared with Monte Carlo dropout.

    python -m jobs.benchmarks.measure_serfiq IMAGES… [--faces 400] [--passes 5000]

Uses the faces in the images, each unchanged and as a degraded copy. The copies take the kinds and severities
of the demo's ladders in turn. They degrade the aligned face, which is harder than degrading the frame around
it. Prints the error of the mean distance compared with the dropout passes, the rank correlation, the noise of
the passes themselves, and the time per face compared with 100 passes of the last layer.
"""

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from rich.progress import track
from scipy.stats import spearmanr

from faceq import config
from faceq.fiq import recogniser, serfiq
from faceq.fiq.distances import HEAD_BATCH
from faceq.fiq.monte_carlo import MonteCarlo
from faceq.runtime.minibatch import in_mini_batches
from faceq.sources import read_shards
from faceq.sources.frame import in_batches, to_table
from faceq.sources.listing import list_shards
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.table.schema import pending, pixels
from jobs.demo import SEVERITIES, STEPS, degraded

MINI_BATCH = 8
TIMINGS = 10


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", metavar="IMAGES", help="images, shards or folders with faces")
    parser.add_argument("--faces", type=int, default=400, help="number of faces, with the degraded copies")
    parser.add_argument("--passes", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = config.build({})
    backbone = recogniser.from_zoo(settings.chosen.recogniser)
    found = list(_with_copies(settings, options.pictures, options.faces))
    if len(found) < HEAD_BATCH:
        parser.error(f"{len(found)} faces in {', '.join(options.pictures)}: give at least {HEAD_BATCH}")
    faces = np.stack(found)
    (features,) = in_mini_batches(lambda part: (backbone(part),), MINI_BATCH, faces)
    print(json.dumps(accuracy(backbone.head, features, faces, options.passes), indent=1))
    print(json.dumps(speed(backbone.head, features), indent=1))


def _with_copies(settings: config.Config, pictures: list[str], count: int) -> Iterator[np.ndarray]:
    """`count` aligned faces (112, 112, 3) uint8 RGB: a face, its degraded copy, the next face, …"""
    find = FindFace(settings, choose(settings))
    copies = [(kind, severity) for severity in SEVERITIES[1:] for kind in STEPS]
    made = 0
    for batch in in_batches(read_shards(list_shards(pictures, settings.s3), settings.s3)):
        found = find(to_table(batch))
        for face in pixels(found, "aligned", pending(found), (112, 112, 3)):
            kind, severity = copies[made // 2 % len(copies)]
            for one in (face, degraded(face, kind, severity, seed=made)):
                yield one
                made += 1
                if made == count:
                    return


def accuracy(head: serfiq.Head, features: np.ndarray, faces: np.ndarray, passes: int) -> dict[str, float]:
    """The distance in closed form compared with many dropout passes; errors are relative to the passes."""
    closed_form = serfiq.ClosedForm(head)
    closed, _ = in_mini_batches(closed_form, HEAD_BATCH, features)
    half = MonteCarlo(head, passes // 2)
    drawn = MonteCarlo(head, passes)
    seeds = [serfiq.seed_of(face) for face in faces]
    distances, halves = [], []
    for vector, seed in track(list(zip(features, seeds, strict=True)), "passes", transient=True):
        one = torch.from_numpy(vector[None])
        distances.append(drawn(one, [seed])[0][0])
        halves.append(half(one, [seed ^ 1])[0][0])
    truth = np.array(distances)
    error = closed / truth - 1
    return {
        "faces": len(faces),
        "passes": passes,
        "distance_5_percent": float(np.quantile(truth, 0.05)),
        "distance_95_percent": float(np.quantile(truth, 0.95)),
        "mean_error": float(error.mean()),
        "mean_absolute_error": float(np.abs(error).mean()),
        "worst_error": float(np.abs(error).max()),
        "rank_correlation": float(spearmanr(closed, truth).statistic),
        "rank_correlation_of_passes_with_half_as_many_others": float(spearmanr(halves, truth).statistic),
    }


def speed(head: serfiq.Head, features: np.ndarray) -> dict[str, float]:
    """Milliseconds per face for the last layer: closed form and 100 passes, medians of alternating runs."""
    closed, drawn = serfiq.ClosedForm(head), MonteCarlo(head, passes=100)
    first = features[:HEAD_BATCH]
    batch = torch.from_numpy(first)
    times: dict[str, list[float]] = {"closed_form": [], "passes_100": []}
    for round_ in range(TIMINGS + 1):
        for name, run in (
            ("closed_form", lambda: closed(first)),
            ("passes_100", lambda: drawn(batch, range(len(batch)))),
        ):
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                times[name].append((time.perf_counter() - start) / len(batch) * 1e3)
    medians = {f"{name}_ms": float(np.median(values)) for name, values in times.items()}
    return {**medians, "ratio": medians["passes_100_ms"] / medians["closed_form_ms"]}


if __name__ == "__main__":
    main()

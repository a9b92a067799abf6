"""Which rated images a training leaves out, and how well the scores of these images agree with their ratings.

    python -m jobs.training.agreement FOLDER/held_out.csv…

The files are those of the runs of a cross-validation, one for each fold. Prints Spearman's (SRCC) and
Pearson's (PLCC) correlation over all their images, with the interval that holds 95% of what a bootstrap over
images gives, and the mean over the files.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich.console
import rich.table
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from jobs.training.train_data import FOLDS, Rated, fold_of

DRAWS = 2000
HELD_OUT = "held_out.csv"


@dataclass(frozen=True)
class Scored:
    """The ratings and scores of some images, each (N,) float64."""

    ratings: NDArray[np.float64]
    scores: NDArray[np.float64]

    def correlations(self, rows: NDArray[np.int64] | slice = slice(None)) -> tuple[float, float]:
        """SRCC and PLCC of some of them."""
        pair = self.scores[rows], self.ratings[rows]
        return float(spearmanr(*pair).statistic), float(pearsonr(*pair).statistic)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which images are held out."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="part that is held out (0)")
    group.add_argument("--all", action="store_true", help="hold nothing out")


def split(rated: Rated, options: argparse.Namespace) -> tuple[NDArray[np.bool_], str]:
    """Which images are held out, (N,), and how many there are in words."""
    held = np.array([fold_of(name) == options.fold and not options.all for name in rated.names])
    counts = f"{np.count_nonzero(~held)} images for training, {np.count_nonzero(held)} held out"
    if held.any():
        counts += f" (fold {options.fold})"
    print(counts, flush=True)
    return held, counts


def described(rated: Rated, scores: NDArray[np.float64]) -> list[str]:
    """The agreement in words; nothing if there are no images."""
    if not rated.names:
        return []
    srcc, plcc = Scored(rated.ratings.astype(float), scores).correlations()
    return [f"held out: SRCC {srcc:.4f}, PLCC {plcc:.4f}"]


def write_scores(folder: Path, rated: Rated, scores: NDArray[np.float64]) -> None:
    """Write the scores of the held-out images, if there are any."""
    if not rated.names:
        return
    with (folder / HELD_OUT).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mos", "score"])
        writer.writerows(zip(rated.names, rated.ratings.tolist(), scores.tolist(), strict=True))
    print(*described(rated, scores), flush=True)


def read_scores(path: Path) -> Scored:
    """What `write_scores` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ratings, scores = (np.array([float(row[name]) for row in rows]) for name in ("mos", "score"))
    return Scored(ratings, scores)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help=f"{HELD_OUT} of each fold")
    parts = [read_scores(path) for path in parser.parse_args().files]
    pooled = Scored(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("ratings", "scores"))
    )
    rng = np.random.default_rng(0)
    count = len(pooled.scores)
    drawn = np.array([pooled.correlations(rng.integers(0, count, count)) for _ in range(DRAWS)])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    means = np.mean([part.correlations() for part in parts], axis=0)
    table = rich.table.Table(title=f"{count} images in {len(parts)} files", box=None, pad_edge=False)
    for title in ("", "pooled", "95%", "mean of the files"):
        table.add_column(title)
    for at, name in enumerate(("SRCC", "PLCC")):
        interval = f"{low[at]:.3f} to {high[at]:.3f}"
        table.add_row(name, f"{pooled.correlations()[at]:.4f}", interval, f"{means[at]:.4f}")
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()

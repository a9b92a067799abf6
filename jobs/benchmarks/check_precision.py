"""Check that scores in a lower precision or from another runtime are as good as those of a base.

    python -m jobs.benchmarks.check_precision DATA --base precision=f32 --other precision=bf16

DATA holds `live_challenge` (rated images) and `celeba_dev` (photos of known people). --base and --other are
settings as in `faceq score --set`. Each set of settings scores all images by the stages of the job, in its
own process. `--photos 300` scores only the photos of the first people: enough to try the script, but not for
FNMR and pAUC.

Prints the figures of both and their difference, and ends with exit status 1 if one is outside its gate:

- SRCC of DB-CNN with human ratings, on the rated images that DB-CNN-Lite was not trained on: within 0.003.
  The score of an image is the mean over ten crops of the size that the job scores;
- false non-match rate (FNMR) of the embeddings, and area under the error-versus-discard curve (pAUC) of
  SER-FIQ, as in `faceq evaluate edc`, at false match rates of 1e-2 and 1e-3: within 2% of the base;
- rank correlation between both, for SER-FIQ and DB-CNN: at least 0.999.

The largest differences, and the number of photos with another status, have no gate.
"""

import argparse
import concurrent.futures
import functools
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rich.console
import rich.table
from scipy.stats import spearmanr

from faceq import config
from faceq.cli.settings import assignment
from faceq.evaluation import edc, identities, iqa
from faceq.evaluation.whole_images import lite_views
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame, in_batches
from faceq.stages.find_face import crop_side
from faceq.stages.scorer import AT_ONCE, run_stages, stages_of
from faceq.storage.settings import S3Settings
from faceq.table.schema import schema
from jobs.training.train_data import is_held_out

SRCC_GATE = 0.003
RELATIVE_GATE = 0.02
RANK_GATE = 0.999
WIDTH = 110

FMRS = (1e-2, 1e-3)
"""1e-4 is left out: it is estimated from some 70 false matches."""

Stage = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Labels:
    """The images to score.

    rated: rating of each image by its path. people: person of each photo by its path.
    """

    rated: dict[Path, float]
    people: dict[Path, str]


@dataclass(frozen=True)
class Scores:
    """What one set of settings gives.

    rated: (R,) float64, the quality of each rated image. rows: result rows of the photos, in their order.
    """

    rated: np.ndarray
    rows: pa.Table


@dataclass(frozen=True)
class Line:
    """One line of the report. `holds` is None if there is no gate."""

    name: str
    base: float | None
    other: float | None
    difference: str
    gate: str = ""
    holds: bool | None = None


def main() -> int:
    """Score with both sets of settings and print the comparison; 1 if a gate does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder that holds live_challenge and celeba_dev")
    for name in ("base", "other"):
        what = f"settings of the {name}, such as precision=f32"
        add(f"--{name}", type=assignment, nargs="*", default=[], metavar="KEY=VALUE", help=what)
    add("--photos", type=int, metavar="N", help="only the first N photos of known people (default: all)")
    options = parser.parse_args()
    labels = read_labels(options.data, options.photos)
    both = [
        config.load(None, {"fiq_threshold": 0.0, "embeddings": True}, given)
        for given in (options.base, options.other)
    ]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        base, other = pool.map(functools.partial(scores_of, labels), both)
    lines = list(compared(base, other, labels))
    print(f"{len(labels.rated)} rated images, {len(labels.people):,} photos of {_count(labels)} people")
    rich.console.Console(width=WIDTH).print(report(lines))
    return int(any(line.holds is False for line in lines))


def read_labels(data: Path, photos: int | None) -> Labels:
    """The rated images that are held out, and the first `photos` photos of known people."""
    s3 = S3Settings()
    ratings = iqa.read_ratings(str(data / "live_challenge" / "mos.csv"), s3)
    people = identities.read_identities(str(data / "celeba_dev" / "identity.csv"), s3)
    known = sorted(people.items(), key=lambda item: (item[1], item[0]))[:photos]
    return Labels(
        {data / "live_challenge/images" / name: mos for name, mos in ratings.items() if is_held_out(name)},
        {data / "celeba_dev/images" / name: person for name, person in known},
    )


def _count(labels: Labels) -> int:
    return len(set(labels.people.values()))


def scores_of(labels: Labels, settings: config.Config) -> Scores:
    """Score all images with these settings, in this process."""
    stages = stages_of(settings)
    frames = (Frame(str(path), None, 0, path.read_bytes()) for path in labels.people)
    columns = schema(settings.embeddings, settings.all_faces)
    parts = [run_stages(batch, stages, columns, "check") for batch in in_batches(frames, AT_ONCE)]
    quality = functools.partial(whole_image_score, stages[-1], crop_side(settings))
    return Scores(np.array([quality(path) for path in labels.rated]), pa.concat_tables(parts))


def whole_image_score(quality: Stage, side: int, path: Path) -> float:
    """The mean score, by the quality stage, of square crops of an image, each scored as a whole."""
    views = lite_views(decode(path.read_bytes(), iqa.MAX_PIXELS), side)
    everywhere = np.array([(-1, -1), (side, -1), (side, side), (-1, side)], np.float32)
    batch = pa.table(
        {
            "status": pa.nulls(len(views), pa.string()),
            "crop": [view.tobytes() for view in views],
            "outline": [everywhere.tobytes()] * len(views),
            "crop_map": pa.nulls(len(views), pa.binary()),
        }
    )
    return float(quality(batch)["dbcnn"].to_numpy().mean(dtype=np.float64))


def compared(base: Scores, other: Scores, labels: Labels) -> Iterator[Line]:
    """The lines of the report."""
    ratings = np.array(list(labels.rated.values()))
    agreement = [iqa.srcc(each.rated, ratings) for each in (base, other)]
    yield _gated("SRCC of DB-CNN", agreement, SRCC_GATE)
    found = [each.rows["serfiq_raw"].is_valid().to_numpy() for each in (base, other)]
    common = np.flatnonzero(found[0] & found[1])
    rows = [each.rows.take(common) for each in (base, other)]
    people = np.unique(np.array(list(labels.people.values()))[common], return_inverse=True)[1]
    figures = [recognition(each, people) for each in rows]
    for name in figures[0]:
        yield _gated(name, [each[name] for each in figures], RELATIVE_GATE, relative=True)
    series = {
        "SER-FIQ": [_values(each, "serfiq_raw") for each in rows],
        "DB-CNN of faces": [_values(each, "dbcnn") for each in rows],
        "DB-CNN of rated images": [base.rated, other.rated],
    }
    for name, (one, two) in series.items():
        rank = float(spearmanr(one, two).statistic)
        yield Line(
            f"rank correlation, {name}", None, None, f"{rank:.5f}", f"≥ {RANK_GATE}", rank >= RANK_GATE
        )
    series["landmarks, pixels"] = [_stacked(each, "landmarks") for each in rows]
    for name, (one, two) in series.items():
        yield Line(f"largest difference, {name}", None, None, f"{np.abs(one - two).max():.3g}")
    cosine = (_stacked(rows[0], "embedding") * _stacked(rows[1], "embedding")).sum(axis=1)
    yield Line("smallest cosine of embeddings", None, None, f"{cosine.min():.5f}")
    pairs = zip(base.rows["status"].to_pylist(), other.rows["status"].to_pylist(), strict=True)
    yield Line("photos with another status", None, None, f"{sum(one != two for one, two in pairs)}")


def recognition(rows: pa.Table, people: np.ndarray) -> dict[str, float]:
    """FNMR and pAUC by SER-FIQ of faces with embeddings; `people`, (N,) int64, is the person of each."""
    embeddings, quality = _stacked(rows, "embedding"), _values(rows, "serfiq_raw")
    genuine = edc.genuine_pairs(people, embeddings)
    impostors = edc.impostor_pairs(people, embeddings)
    worst = np.minimum(quality[genuine.first], quality[genuine.second])
    figures = {}
    for fmr in FMRS:
        curve = edc.curve(worst, genuine.similarity, edc.threshold_at(impostors.similarity, fmr))
        figures[f"FNMR at FMR {fmr:g}"] = float(curve.fnmr[0])
        for upto in edc.AREAS:
            figures[f"pAUC {upto:.0%} of SER-FIQ at FMR {fmr:g}"] = curve.relative_area(upto)
    return figures


def _gated(name: str, both: list[float], gate: float, relative: bool = False) -> Line:
    base, other = both
    difference = other - base
    if relative and difference:
        difference = difference / base if base else math.inf
    shown = [f"{value:{'.2%' if relative else '.4f'}}" for value in (difference, gate)]
    return Line(name, base, other, shown[0], f"± {shown[1]}", abs(difference) <= gate)


def _values(rows: pa.Table, name: str) -> np.ndarray:
    return rows[name].to_numpy().astype(np.float64)


def _stacked(rows: pa.Table, name: str) -> np.ndarray:
    return np.stack(rows[name].to_numpy())


def report(lines: list[Line]) -> rich.table.Table:
    """All lines as one table."""
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("figure", "base", "other", "difference", "gate", ""):
        table.add_column(title, justify="left" if title in {"figure", ""} else "right")
    for line in lines:
        both: list[Any] = ["" if value is None else f"{value:.4f}" for value in (line.base, line.other)]
        verdict = "" if line.holds is None else "holds" if line.holds else "FAILS"
        table.add_row(line.name, *both, line.difference, line.gate, verdict)
    return table


if __name__ == "__main__":
    sys.exit(main())

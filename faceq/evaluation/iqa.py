"""Agreement of a quality score with human ratings (MOS) of whole images: SRCC, PLCC, KRCC and RMSE.

The metrics are pure functions of two arrays. `evaluate` scores the images of a folder.

Source: Video Quality Experts Group, "Final Report from the Video Quality Experts Group on the Validation of
Objective Models of Video Quality Assessment", 2000: the metrics, and the logistic function that is fitted
before PLCC and RMSE, because a score need not be on the scale of the ratings.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares
from scipy.special import expit
from scipy.stats import kendalltau, linregress, pearsonr, spearmanr, zscore

from faceq.errors import JobError, UsageError
from faceq.evaluation import labels
from faceq.evaluation.whole_images import Rater
from faceq.iqa.dbcnn_vgg import TooSmallError
from faceq.runtime.parallel import in_threads
from faceq.runtime.threads import limit_threads, without_tf32
from faceq.sources.decode.image import UnreadableError, decode
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.settings import S3Settings

log = logging.getLogger(__name__)

MIN_PICTURES = 10
"""Minimum number of rated images: with fewer, the four parameters of the logistic would overfit."""

MAX_PIXELS = 80_000_000
"""Larger images are refused, as in a job by default."""

REPORT_EVERY_S = 10

_MAX_EVALUATIONS = 500
_START_WIDTHS = (0.25, 1.0, 4.0)

# Bounds of (high, low, centre, width), in standard deviations of the ratings and of the scores. They are
# wide, and only prevent the fit from diverging if a straight line or a step would be best.
_BOUNDS = ([-50.0, -50.0, -20.0, 1e-3], [50.0, 50.0, 20.0, 20.0])

Floats = NDArray[np.float64]


def plcc(scores: Floats, ratings: Floats) -> float:
    """Pearson's linear correlation of two (N,) arrays, -1…1; NaN if one of them is constant.

    >>> round(plcc(np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 7.0])), 4)
    0.9897
    """
    return _statistic(pearsonr, scores, ratings)


def srcc(scores: Floats, ratings: Floats) -> float:
    """Spearman's rank correlation of two (N,) arrays, -1…1; NaN if one of them is constant.

    Pearson's correlation of the ranks, ties at their mean rank.

    >>> srcc(np.array([0.1, 0.5, 0.9]), np.array([10.0, 50.0, 51.0]))
    1.0
    """
    return _statistic(spearmanr, scores, ratings)


def krcc(scores: Floats, ratings: Floats) -> float:
    """Kendall's rank correlation (tau-b) of two (N,) arrays, -1…1; NaN if one of them is constant.

    The share of pairs in the same order minus that of pairs in opposite order, corrected for ties.

    >>> round(krcc(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 4)
    0.3333
    """
    return _statistic(kendalltau, scores, ratings)


def _statistic(correlation: Callable[[Floats, Floats], Any], scores: Floats, ratings: Floats) -> float:
    if np.ptp(scores) == 0 or np.ptp(ratings) == 0:
        return math.nan  # SciPy would warn
    return float(correlation(scores, ratings).statistic)


def rmse(predicted: Floats, ratings: Floats) -> float:
    """Root mean square difference of two (N,) arrays on the scale of the ratings.

    >>> rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == math.sqrt(2)
    True
    """
    return float(np.sqrt(np.mean((predicted - ratings) ** 2)))


@dataclass(frozen=True)
class Logistic:
    """VQEG's logistic, from `low` to `high` around `centre`. It is steeper if `width` is smaller."""

    high: float
    low: float
    centre: float
    width: float

    def __call__(self, scores: Floats) -> Floats:
        """Map (N,) scores to the scale of the ratings.

        >>> float(Logistic(high=80, low=20, centre=0.5, width=0.1)(np.array([0.5]))[0])
        50.0
        """
        return self.low + (self.high - self.low) * expit((scores - self.centre) / self.width)


@dataclass(frozen=True)
class Line:
    """The fallback if the logistic cannot be fitted; `reason` says why."""

    slope: float
    intercept: float
    reason: str

    def __call__(self, scores: Floats) -> Floats:
        """Map (N,) scores to the scale of the ratings."""
        return self.intercept + self.slope * scores


def fit(scores: Floats, ratings: Floats) -> Logistic | Line:
    """Fit the logistic that maps scores to ratings with the least squared error.

    Scores and ratings are standardised first, and the fit starts from several widths, so that the result
    depends neither on their units nor on a bad start. If no start converges, or the best fit is no better
    than a straight line, a line is fitted instead. If scores fall as ratings rise, the curve falls.

    Args:
        scores, ratings: (N,) float64, neither constant.
    """
    x, y = zscore(scores), zscore(ratings)
    slope = plcc(scores, ratings)
    line_error = float(np.sum((y - slope * x) ** 2))
    tried = [_fit_from(width, slope, x, y) for width in _START_WIDTHS]
    converged = [fitted for fitted in tried if fitted.success]
    best = min(converged, key=lambda fitted: fitted.cost, default=None)
    if best is None:
        return _line(scores, ratings, "the logistic did not converge")
    if 2 * best.cost >= line_error:
        return _line(scores, ratings, "the logistic is no better than a straight line")
    high, low, centre, width = (float(value) for value in best.x)
    middle, spread = float(ratings.mean()), float(ratings.std())
    return Logistic(
        high=middle + spread * high,
        low=middle + spread * low,
        centre=float(scores.mean() + scores.std() * centre),
        width=float(scores.std() * width),
    )


def _fit_from(width: float, slope: float, x: Floats, y: Floats) -> OptimizeResult:
    ends = (y.max(), y.min()) if slope >= 0 else (y.min(), y.max())

    def errors(parameters: Floats) -> Floats:
        return Logistic(*parameters)(x) - y

    start = (*ends, float(np.median(x)), width)
    return least_squares(errors, start, bounds=_BOUNDS, max_nfev=_MAX_EVALUATIONS)


def _line(scores: Floats, ratings: Floats, reason: str) -> Line:
    line = linregress(scores, ratings)
    return Line(float(line.slope), float(line.intercept), f"{reason}: a line was fitted instead")


@dataclass(frozen=True)
class Result:
    """Scores and ratings of N images, and their agreement.

    names: names of the images. scores, ratings: (N,) float64. curve: the fitted curve from scores to ratings;
    plcc and rmse are computed after it, rmse in the unit of the ratings. With a falling curve plcc is
    positive; srcc and krcc show the direction.
    """

    names: tuple[str, ...]
    scores: Floats
    ratings: Floats
    curve: Logistic | Line
    srcc: float
    plcc: float
    krcc: float
    rmse: float

    def figures(self) -> dict[str, float]:
        """The metrics, as written by `faceq evaluate iqa --json`."""
        return {
            "n": len(self.names),
            **{name: round(getattr(self, name), 6) for name in ("srcc", "plcc", "krcc", "rmse")},
        }


def agreement(names: tuple[str, ...], scores: Floats, ratings: Floats) -> Result:
    """Compute all metrics for N named images; `scores` and `ratings` are (N,) float64, finite.

    Raises:
        UsageError: fewer than MIN_PICTURES images, or all scores or all ratings are the same.
    """
    if len(names) < MIN_PICTURES:
        raise UsageError(f"iqa: {len(names)} rated images are too few: give at least {MIN_PICTURES}")
    for what, values in (("score", scores), ("rating", ratings)):
        if values.min() == values.max():
            raise UsageError(f"iqa: every {what} is {values[0]:g}: a correlation needs different values")
    curve = fit(scores, ratings)
    mapped = curve(scores)
    return Result(
        names=names,
        scores=scores,
        ratings=ratings,
        curve=curve,
        srcc=srcc(scores, ratings),
        plcc=plcc(mapped, ratings),
        krcc=krcc(scores, ratings),
        rmse=rmse(mapped, ratings),
    )


def evaluate(
    image_dir: str,
    mos_csv: str,
    rater: Rater,
    s3: S3Settings | None = None,
) -> Result:
    """Score every rated image and compare the scores with the ratings.

    faceq checks that all images exist before it scores the first one.

    Args:
        image_dir: folder or URI of the images.
        mos_csv: a CSV file with the columns `image` (file name relative to image_dir) and `mos` (a number,
            higher is better); other columns are ignored.
        rater: the scorer.
        s3: settings of the file system.

    Raises:
        UsageError: a file or column is missing, a rating is not a number, an image is rated twice, cannot be
            read or is too small for the scorer, or there are too few images.
        JobError: a score is not a finite number.
    """
    s3 = s3 or S3Settings()
    ratings = read_ratings(mos_csv, s3)
    files, paths = filesystem(image_dir, s3), _paths(image_dir, ratings, mos_csv, s3)

    def score_of(name: str) -> float:
        try:
            score = rater.rate(decode(files.cat_file(paths[name]), MAX_PIXELS))
        except (UnreadableError, TooSmallError) as error:
            raise UsageError(f"iqa: {image_dir}/{name}: {error}") from None
        except (OSError, *storage_errors()) as error:
            raise failure(f"iqa: {image_dir}/{name}: cannot be read", error) from None
        if not math.isfinite(score):
            raise JobError(f"iqa: {image_dir}/{name}: the score is {score}, not a finite number")
        return score

    with limit_threads(rater.torch_threads), without_tf32():
        scores = list(_reported(in_threads(score_of, ratings, rater.at_once), len(ratings)))
    return agreement(tuple(ratings), np.array(scores), np.array(list(ratings.values())))


def _paths(image_dir: str, ratings: Mapping[str, float], mos_csv: str, s3: S3Settings) -> dict[str, str]:
    """The path of each rated image in its file system. Raises UsageError if one is missing."""
    files, folder = filesystem(image_dir, s3), path_of(image_dir)
    try:
        if not files.isdir(folder):
            raise UsageError(f"iqa: {image_dir}: there is no such folder")
        present = set(files.find(folder))
    except (OSError, *storage_errors()) as error:
        raise failure(f"iqa: {image_dir}: cannot be listed", error) from None
    paths = {name: f"{folder}/{name}" for name in ratings}
    absent = [name for name, path in paths.items() if path not in present]
    if absent:
        more = f" and {len(absent) - 1:,} more" if len(absent) > 1 else ""
        raise UsageError(f"iqa: {mos_csv} rates {absent[0]}{more}, not found in {image_dir}")
    return paths


def _reported(scores: Iterable[float], count: int) -> Iterator[float]:
    """Yield the scores, and log the progress every REPORT_EVERY_S seconds."""
    started = said = time.monotonic()
    for done, score in enumerate(scores, 1):
        now = time.monotonic()
        if now - said >= REPORT_EVERY_S:
            said = now
            rate = done / (now - started)
            log.info("%s of %s images, %.1f images/s", f"{done:,}", f"{count:,}", rate)
        yield score


def read_ratings(mos_csv: str, s3: S3Settings | None = None) -> dict[str, float]:
    """Read the rating of each image, in the file's order. Raises UsageError if a rating is invalid."""
    ratings: dict[str, float] = {}
    for where, name, mos in labels.read(mos_csv, "mos", s3 or S3Settings()):
        if name in ratings:
            raise UsageError(f"{where}: {name} is rated twice")
        ratings[name] = _number(mos, where)
    if len(ratings) < MIN_PICTURES:
        raise UsageError(f"iqa: {mos_csv} rates {len(ratings)} images: give at least {MIN_PICTURES}")
    return ratings


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: mos is {text!r}, not a number")
    return number

"""The scale of `serfiq`: a logistic curve that puts 0.5 where the share to discard ends."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from faceq.config import Calibration
from faceq.errors import UsageError

MEDIAN_SCORE = 0.9
"""What the median face gets: the curve's second fixed point, beside 0.5 at the threshold."""

LEAST_FACES = 100
"""With fewer the quantile of a small share is one face's luck."""


@dataclass(frozen=True)
class Fit:
    """A calibration and what it was fitted on. below: faces under the threshold. median: of serfiq_raw."""

    calibration: Calibration
    faces: int
    below: int
    median: float


def fit(raw: np.ndarray, discard: float = 0.05) -> Fit:
    """The calibration that puts the share `discard` of these faces below 0.5.

    Raw scores of a recogniser lie in a narrow band, which differs between recognisers; on this scale 0.5
    and the spread mean the same for all.

    Args:
        raw: (N,) float, `serfiq_raw` of faces such as the threshold is meant for.
        discard: share of them that is to lie below 0.5, above 0 and below 0.5.

    Raises:
        UsageError: fewer than 100 faces, a share out of its range, or scores that are all alike.
    """
    if not 0 < discard < 0.5:
        raise UsageError(f"calibrate: the share to discard is {discard:g}: it must lie between 0 and 0.5")
    if len(raw) < LEAST_FACES:
        raise UsageError(f"calibrate: {len(raw)} faces have a serfiq_raw: at least {LEAST_FACES} are needed")
    threshold, median = (float(value) for value in np.quantile(raw, [discard, 0.5]))
    if median <= threshold:
        raise UsageError(f"calibrate: half of the faces share one serfiq_raw, {median:g}: none stand out")
    slope = float(logit(MEDIAN_SCORE)) / (median - threshold)
    # Digits to a hundredth of the spread: more than a few thousand faces can tell.
    digits = 2 - math.floor(math.log10(median - threshold))
    calibration = Calibration(slope=float(f"{slope:.4g}"), threshold=round(threshold, digits))
    return Fit(calibration, len(raw), int((raw < calibration.threshold).sum()), median)

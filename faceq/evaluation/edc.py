"""Error-versus-discard characteristic (EDC): how much a quality score helps recognition. Pure functions.

A good quality score reduces error rates: if the pairs of faces with the lowest quality are discarded, the
false non-match rate of the remaining pairs falls. The decision threshold does not change. The
area under this curve, up to a share of discarded pairs and relative to discarding nothing, summarises it in
one number: 1.0 means useless, lower is better.

Source: Grother, Tabassi, "Performance of Biometric Quality Measures", TPAMI 29(4), 2007; Schlett, Rathgeb,
Tapia, Busch, "Considerations on the Evaluation of Biometric Quality Assessment Algorithms", TBIOM 6(1), 2024.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FMRS = (1e-2, 1e-3, 1e-4)
"""False match rates at which the decision threshold is set."""

AREAS = (0.2, 0.3)
"""Shares of discarded pairs up to which the area is computed."""

GENUINE_PER_PERSON = 1000
"""Maximum number of genuine pairs per person: a person with a thousand photos would have half a million."""

IMPOSTORS = 1_000_000
"""Maximum number of impostor pairs: a false match rate of 1e-4 then corresponds to a hundred of them."""

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pairs:
    """Pairs of faces and their similarities.

    first, second: (P,) int64, positions of the two faces. similarity: (P,) float32, cosine.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A step function: the error is `fnmr[k]` from `discarded[k]` to `discarded[k + 1]`. Both (K,)
    float64."""

    discarded: np.ndarray
    fnmr: np.ndarray

    def relative_area(self, upto: float) -> float:
        """Area from 0 to `upto`, relative to a constant first value; NaN if that is 0 or there is no pair."""
        if not len(self.fnmr) or self.fnmr[0] == 0:
            return float("nan")
        edges = np.append(np.minimum(self.discarded, upto), upto)
        return float((np.diff(edges) * self.fnmr).sum() / (upto * self.fnmr[0]))


@dataclass(frozen=True)
class Result:
    """The result of one quality score at one false match rate.

    threshold: the cosine from which on a pair matches. fnmr: false non-match rate of all genuine pairs.
    pauc: relative areas up to each of AREAS. resampled: (RESAMPLES,), the last of these areas for each
    bootstrap sample of people; `low` and `high` are the limits of its CONFIDENCE interval.
    """

    fmr: float
    quality: str
    threshold: float
    fnmr: float
    pauc: tuple[float, ...]
    curve: Curve
    resampled: np.ndarray

    @property
    def low(self) -> float:
        return _quantile(self.resampled, (1 - CONFIDENCE) / 2)

    @property
    def high(self) -> float:
        return _quantile(self.resampled, (1 + CONFIDENCE) / 2)


def evaluate(
    genuine: Pairs,
    impostor: Pairs,
    people: np.ndarray,
    qualities: Mapping[str, np.ndarray],
    fmrs: Sequence[float] = FMRS,
    seed: int = 0,
) -> list[Result]:
    """Compute the EDC of every quality score at every false match rate, with bootstrap intervals over people.

    A bootstrap sample draws as many people as there are, with replacement. A genuine pair counts as often as
    its person was drawn, an impostor pair as often as the product of the counts of its two people. The
    decision threshold is computed again for each sample. All scores use the same samples, so that differences
    between them are comparable.

    Args:
        genuine, impostor: from `genuine_pairs` and `impostor_pairs`.
        people: (N,) int64, 0…M-1: the person of each face.
        qualities: name to (N,) float, higher is better, no NaN.
        fmrs: false match rates, each 0 < fmr < 1.
        seed: seed of the bootstrap.

    Returns:
        Results by false match rate and then by quality, in the given orders.
    """
    count = int(people.max()) + 1
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    falling = np.argsort(-impostor.similarity, kind="stable")
    ranked = impostor.similarity[falling]
    one, other = people[impostor.first][falling], people[impostor.second][falling]
    thresholds = np.array([_thresholds(ranked, draw[one] * draw[other], fmrs) for draw in draws])
    owner = people[genuine.first]
    results = []
    for position, fmr in enumerate(fmrs):
        (threshold,) = _thresholds(ranked, np.ones(len(ranked), np.int64), [fmr])
        for name, quality in qualities.items():
            worst = np.minimum(quality[genuine.first], quality[genuine.second])
            rising = np.argsort(worst, kind="stable")
            levels = worst[rising]
            similarity, person = genuine.similarity[rising], owner[rising]
            curve = _curve(levels, similarity < threshold, np.ones(len(levels), np.int64))
            # Without impostors (only one person was drawn) there is no threshold and no area.
            areas = [
                float("nan")
                if np.isnan(at)
                else _curve(levels, similarity < at, draw[person]).relative_area(AREAS[-1])
                for at, draw in zip(thresholds[:, position], draws, strict=True)
            ]
            results.append(
                Result(
                    fmr=fmr,
                    quality=name,
                    threshold=float(threshold),
                    fnmr=float(curve.fnmr[0]),
                    pauc=tuple(curve.relative_area(upto) for upto in AREAS),
                    curve=curve,
                    resampled=np.array(areas),
                )
            )
    return results


def genuine_pairs(
    people: np.ndarray, embeddings: np.ndarray, cap: int = GENUINE_PER_PERSON, seed: int = 0
) -> Pairs:
    """All pairs of faces of the same person, or a random sample of `cap` pairs if a person has more.

    Args:
        people: (N,) int64: the person of each face.
        embeddings: (N, E) float32, L2 norm 1.
        cap: maximum number of pairs per person.
        seed: seed of the sample.
    """
    generator = np.random.default_rng(seed)
    first, second = [], []
    for person in np.unique(people):
        faces = np.flatnonzero(people == person)
        count = len(faces) * (len(faces) - 1) // 2
        drawn = np.sort(generator.choice(count, cap, replace=False)) if count > cap else np.arange(count)
        one, other = _pairs_at(drawn, len(faces))
        first.append(faces[one])
        second.append(faces[other])
    return _compared(np.concatenate(first), np.concatenate(second), embeddings)


def _pairs_at(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs at the positions (P,) int64 of `np.triu_indices(count, k=1)`, without creating that array:
    100,000 frames of a video have five billion pairs."""
    starts = np.append(0, np.cumsum(np.arange(count - 1, 0, -1)))
    first = np.searchsorted(starts, places, side="right") - 1
    return first, places - starts[first] + first + 1


def impostor_pairs(people: np.ndarray, embeddings: np.ndarray, most: int = IMPOSTORS, seed: int = 0) -> Pairs:
    """All pairs of faces of different people, or a random sample of `most` pairs if there are more.

    Args:
        people: (N,) int64: the person of each face.
        embeddings: (N, E) float32, L2 norm 1.
        most: maximum number of pairs.
        seed: seed of the sample.
    """
    count = len(people)
    _, sizes = np.unique(people, return_counts=True)
    total = (count * count - int((sizes.astype(np.int64) ** 2).sum())) // 2
    generator = np.random.default_rng(seed)
    if total <= 4 * most:
        first, second = _across(people)
        if total > most:
            chosen = np.sort(generator.choice(total, most, replace=False))
            first, second = first[chosen], second[chosen]
        return _compared(first, second, embeddings)
    drawn = np.empty(0, np.int64)  # each pair is encoded as first * count + second
    while len(drawn) < most:
        one, other = np.sort(generator.integers(0, count, size=(2, most)), axis=0)
        more = (one * count + other)[people[one] != people[other]]
        drawn = np.unique(np.concatenate([drawn, more]))
    first, second = np.divmod(np.sort(generator.choice(drawn, most, replace=False)), count)
    return _compared(first, second, embeddings)


def _across(people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of faces of different people, with first < second."""
    order = np.argsort(people, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(people[order])) + 1, len(people))
    firsts, seconds = [], []
    start = 0
    for end in ends:
        mine, later = order[start:end], order[end:]
        firsts.append(np.repeat(mine, len(later)))
        seconds.append(np.tile(later, len(mine)))
        start = end
    pairs = np.sort(np.stack([np.concatenate(firsts), np.concatenate(seconds)]), axis=0)
    first, second = pairs[:, np.lexsort(pairs[::-1])]
    return first, second


def _compared(first: np.ndarray, second: np.ndarray, embeddings: np.ndarray) -> Pairs:
    similarity = np.empty(len(first), np.float32)
    for start in range(0, len(first), 1 << 16):  # limits the copies of embeddings to about 60 MB
        some = slice(start, start + (1 << 16))
        similarity[some] = np.einsum("pe,pe->p", embeddings[first[some]], embeddings[second[some]])
    return Pairs(first, second, similarity)


def threshold_at(similarity: np.ndarray, fmr: float) -> float:
    """The lowest decision threshold at which at most a share `fmr` of the impostor similarities (P,) match.

    A pair matches if its similarity is at least the threshold.

    Example:
        >>> threshold_at(np.array([0.1, 0.2, 0.3, 0.4], np.float32), fmr=0.25) <= np.float32(0.4)
        True
        >>> threshold_at(np.array([0.1, 0.2, 0.3, 0.4], np.float32), fmr=0.25) > np.float32(0.3)
        True
    """
    ranked = np.sort(similarity)[::-1]
    return float(_thresholds(ranked, np.ones(len(ranked), np.int64), [fmr])[0])


def _thresholds(ranked: np.ndarray, weights: np.ndarray, fmrs: Sequence[float]) -> np.ndarray:
    """Thresholds for similarities in descending order, each counted `weights` times.

    A threshold is just above the first similarity that must not match, so that equal similarities are treated
    alike. NaN if there is no pair.
    """
    matching = np.cumsum(weights)
    if not len(ranked) or not matching[-1]:
        return np.full(len(fmrs), np.nan, np.float32)
    allowed = np.array(fmrs) * matching[-1]
    refused = np.searchsorted(matching, allowed, side="right")
    return np.nextafter(ranked[np.minimum(refused, len(ranked) - 1)], np.float32(np.inf), dtype=np.float32)


def curve(worst: np.ndarray, similarity: np.ndarray, threshold: float) -> Curve:
    """The false non-match rate of genuine pairs as a function of the share of discarded pairs.

    The pairs of lowest quality are discarded first; pairs of equal quality are discarded together.

    Args:
        worst: (P,) float, the lower quality of the two faces of each pair.
        similarity: (P,) float32.
        threshold: pairs below it are false non-matches.

    Example:
        >>> c = curve(np.array([1, 2, 2, 3]), np.array([0.1, 0.1, 0.9, 0.9], np.float32), threshold=0.5)
        >>> c.discarded.tolist(), c.fnmr.tolist()
        ([0.0, 0.25, 0.75], [0.5, 0.3333333333333333, 0.0])
    """
    rising = np.argsort(worst, kind="stable")
    return _curve(worst[rising], similarity[rising] < threshold, np.ones(len(worst), np.int64))


def _curve(levels: np.ndarray, missed: np.ndarray, weights: np.ndarray) -> Curve:
    """The curve for pairs in ascending order of quality, each counted `weights` times.

    missed: whether a pair is a false non-match.
    """
    starts = np.flatnonzero(np.append(True, levels[1:] != levels[:-1]))
    below = np.append(0, np.cumsum(weights))
    errors_below = np.append(0, np.cumsum(weights * missed))
    left = below[-1] - below[starts]
    # If the last people were not drawn, no pairs are left at the end: drop these steps, whose width is 0.
    keep = left > 0
    left = left[keep]
    errors = (errors_below[-1] - errors_below[starts])[keep]
    return Curve(below[starts][keep] / below[-1], errors / left)


def _quantile(values: np.ndarray, share: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else float("nan")

"""What a selection shall be: the options of `faceq select`, checked."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from faceq.errors import UsageError
from faceq.query.extra_values import COLUMN as EXTRA
from faceq.query.extra_values import extra_value
from faceq.selection.kind_and_limit import kind_and_limit

BLEND = "sqrt(serfiq * dbcnn / 100)"
"""SQL: the default score, the geometric mean of both scores, from 0 to 1.

It needs no weight between a score from 0 to 1 and one from 0 to 100: in a geometric mean, the unit of a score
does not change the order. 1% more of one score counts as much as 1% more of the other, and a frame with one
score near zero stays near zero.
"""

PER = ("source", "shot", "cluster", "track")
"""What can be a group, beside a value in `extra`."""

DEFAULT_LIMITS = {"hash": 8.0, "embedding": 0.95}
"""How different two frames are by default: see `Distinct`."""

RANGES = {"yaw": 75.0, "pitch": 45.0, "roll": 45.0}
"""Degrees to both sides of zero that the bins of an angle divide equally. The outermost bins also have all
angles beyond."""

MOST_BINS = 1000
"""Maximum number of bins."""


@dataclass(frozen=True)
class Distinct:
    """How different two chosen frames of a group must be.

    by: `hash`, the difference hash of the aligned face, or `embedding`, the recognition embedding.
    limit: of hashes, the minimum number of bits (of 64) in which two differ; of embeddings, the maximum
    cosine.
    """

    by: str
    limit: float

    def __str__(self) -> str:
        return f"{self.by}:{self.limit:g}"


@dataclass(frozen=True)
class Options:
    """The options of a selection. See `faceq.select` for their meaning."""

    per: str | None = None
    top: int | None = None
    by: str = BLEND
    distinct: Distinct | None = None
    balance: tuple[tuple[str, int], ...] = ()
    total: int | None = None
    seed: int = 0

    @property
    def bins(self) -> int:
        """Number of the bins."""
        return math.prod(count for _, count in self.balance)


def options(
    per: str | None = None,
    top: int | None = None,
    by: str | None = None,
    distinct: str | None = None,
    balance: str | None = None,
    total: int | None = None,
    seed: int = 0,
    clusters: str | None = None,
    faces: bool = False,
) -> Options:
    """The options from their texts. Raises UsageError if one is not valid, or needs another one."""
    if per is not None and per not in PER:
        if not per.startswith(f"{EXTRA}."):
            raise UsageError(f"select: --per {per}: choose from {', '.join(PER)}, extra.KEY")
        extra_value(per)  # checks the name
    if per == "cluster" and clusters is None:
        raise UsageError(
            "select: --per cluster needs --clusters people.parquet, which faceq cluster TABLE --out "
            "people.parquet writes"
        )
    if per == "track" and not faces:
        raise UsageError("select: --per track needs --faces: a track is one person's face through a shot")
    if per != "cluster" and clusters is not None:
        raise UsageError("select: --clusters needs --per cluster")
    for name, number in (("top", top), ("total", total)):
        if number is not None and number < 1:
            raise UsageError(f"select: --{name} {number}: must be 1 or more")
    bins = tuple(_bins(balance)) if balance is not None else ()
    if bins and top is None and total is None:
        raise UsageError("select: --balance needs --top N or --total N: without them, nothing is left out")
    found = Options(per, top, by or BLEND, _distinct(distinct), bins, total, seed)
    if found.bins > MOST_BINS:
        raise UsageError(f"select: --balance {balance}: makes {found.bins:,} bins: {MOST_BINS:,} at most")
    return found


def _distinct(text: str | None) -> Distinct | None:
    if text is None:
        return None
    by, limit = kind_and_limit(text, DEFAULT_LIMITS)
    if (by == "hash" and limit in range(1, 65)) or (by == "embedding" and -1 <= limit <= 1):
        return Distinct(by, limit)
    raise UsageError(
        f"select: --distinct {text}: expected hash:BITS with 1 to 64 bits, or embedding:COSINE with -1 to 1"
    )


def _bins(text: str) -> Iterator[tuple[str, int]]:
    seen = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+):([1-9]\d{0,3})\s*", part)
        if found is None or found[1] not in RANGES or found[1] in seen:
            raise UsageError(
                f"select: --balance {text}: expected ANGLE:BINS for some of {', '.join(RANGES)}, each once, "
                "such as yaw:5,pitch:3"
            )
        seen.add(found[1])
        yield found[1], int(found[2])


def bin_names(balance: tuple[tuple[str, int], ...]) -> list[str]:
    """The name of each bin, in the order of their numbers, such as `yaw -15 to 15, pitch above 15`."""
    names = [""]
    for angle, count in balance:
        names = [f"{name}{', ' * bool(name)}{part}" for name in names for part in _parts(angle, count)]
    return names


def _parts(angle: str, count: int) -> Iterator[str]:
    """The names of the bins of one angle."""
    side = RANGES[angle]
    edges = [f"{-side + 2 * side * number / count:g}" for number in range(count + 1)]
    for number in range(count):
        if count == 1:
            yield f"any {angle}"
        elif number == 0:
            yield f"{angle} below {edges[1]}"
        elif number == count - 1:
            yield f"{angle} from {edges[number]}"
        else:
            yield f"{angle} {edges[number]} to {edges[number + 1]}"


def bin_number(balance: tuple[tuple[str, int], ...]) -> str:
    """SQL: the number of a frame's bin, from 0; null if an angle is null. A bin begins with its lower
    edge."""
    number = "0"
    for angle, count in balance:
        side, width = RANGES[angle], 2 * RANGES[angle] / count
        at = f"floor(({angle}::DOUBLE + {side}) / {width!r})"
        # `greatest` would ignore a null.
        part = f"CASE WHEN isfinite({angle}) THEN least(greatest({at}, 0), {count - 1}) END"
        number = f"({number}) * {count} + {part}"
    return f"({number})::INTEGER"

"""How the measures of a face compare with those of other faces: what is unusual about it, the worst first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings

Side = Literal["low", "high", "both"]

WORSE: dict[str, Side] = {
    "yaw": "both",
    "pitch": "both",
    "roll": "both",
    "face_confidence": "low",
    "align_error": "high",
    "single_face": "low",
    "eye_distance": "low",
    "face_inside": "low",
    "eyes_open": "low",
    "mouth_open": "high",
    "sharpness": "low",
    "noise": "high",
    "compression": "high",
    "luminance_mean": "both",
    "under_exposed": "high",
    "over_exposed": "high",
    "dynamic_range": "low",
    "illumination_uniformity": "low",
    "natural_colour": "high",
}
"""The compared columns, and which of their values are worse. Head size, margins and the variance of the
luminance say how an image is framed and lit, not whether that is bad."""

HARMLESS = {"over_exposed": 0.01, "compression": 0.1}
"""Values up to which a fault cannot be seen. They count as no fault, although most faces have even less."""

FRAMING = ("eye_distance", "face_inside")
"""Measures that are not compared for pictures of `faces: aligned`: they say how these are cropped."""

UNUSUAL = 0.9
"""A value is unusual if it is worse than this share of the reference."""

_SHARES = np.linspace(0, 1, 101)
SHIPPED = "celeba.json"


@dataclass(frozen=True)
class Reference:
    """The faces that others are compared with.

    name: for people. faces: their number. quantiles: (101,) by column, from the minimum to the maximum;
    columns without values are missing.
    """

    name: str
    faces: int
    quantiles: dict[str, list[float]]

    def __str__(self) -> str:
        return f"{self.faces:,} faces of {self.name}"


@dataclass(frozen=True)
class Standing:
    """A measure of a face among the reference. worse_than: share of the faces that are better, 0 to 1."""

    name: str
    value: float
    worse_than: float

    @property
    def percent(self) -> str:
        """`worse_than` for people. A sample cannot tell that a face is worse than all others."""
        return ">99%" if self.worse_than > 0.99 else f"{self.worse_than:.0%}"


@cache
def shipped() -> Reference:
    """1,171 faces of CelebA, which come with faceq: `python -m jobs.reference_faces`."""
    return Reference(**json.loads(files("faceq.report").joinpath(SHIPPED).read_text(encoding="utf-8")))


def of_table(uri: str, s3: S3Settings) -> Reference:
    """The faces of a result table.

    Raises:
        UsageError: there is no table, or none of its faces has measures.
    """
    parts = ", ".join(f"quantile_cont({name}, {_SHARES.tolist()}) AS {name}" for name in WORSE)
    with Rows(uri, s3) as rows:
        measured = "frames WHERE luminance_mean IS NOT NULL"
        found = rows.arrow(rows.sql(f"SELECT count(*) AS faces, {parts} FROM {measured}")).to_pylist()[0]
    faces = found.pop("faces")
    if not faces:
        raise UsageError(f"{uri}: no face of this table has measures: score it with `measures: all`")
    return Reference(uri, faces, {name: values for name, values in found.items() if values is not None})


def standings(row: Mapping[str, Any], reference: Reference) -> list[Standing]:
    """The measures of a face among those of the reference, the worst first.

    Args:
        row: of the result table. Measures that are null are left out, in the row or in the reference.
        reference: the other faces.
    """
    left_out = FRAMING if row["det_score"] is None else ()
    found = [
        Standing(name, row[name], _worse_than(name, row[name], np.array(reference.quantiles[name])))
        for name in WORSE
        if row[name] is not None and name in reference.quantiles and name not in left_out
    ]
    return sorted(found, key=lambda standing: -standing.worse_than)


def _worse_than(name: str, value: float, quantiles: np.ndarray) -> float:
    if value <= HARMLESS.get(name, -np.inf):
        return 0.0
    below, above = float((quantiles < value).mean()), float((quantiles > value).mean())
    return {"low": above, "high": below, "both": abs(below - above)}[WORSE[name]]


def unusual_lines(found: Sequence[Standing], reference: Reference) -> list[tuple[str, str]]:
    """The unusual measures, the worst first, in the form of `picture.lines_of`."""
    unusual = [standing for standing in found if standing.worse_than >= UNUSUAL]
    texts = [f"{each.name} {short(each.value)}, worse than {each.percent}" for each in unusual]
    return [
        ("", text) if number else ("unusual", f"{text} of {reference}") for number, text in enumerate(texts)
    ]


def short(value: float) -> str:
    """A value of a measure, with three digits."""
    return f"{value:.3f}" if 0 < abs(value) < 0.001 else f"{value:.3g}"

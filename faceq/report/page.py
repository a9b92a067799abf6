"""The HTML report on a table, about its frames or their faces: counts, histograms, bad sources, errors,
videos over time, and faces on both sides of a threshold and at both ends of each measure.

The page contains histograms and samples, but no rows, so its size does not depend on the length of the table:
a few hundred kilobytes, or a few megabytes with faces. It works without a network: styles, script, charts and
images are embedded, and its content security policy blocks all requests.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np

from faceq import __version__
from faceq.messages.visible import visible
from faceq.query import conditions
from faceq.query.filters import FILTERS
from faceq.query.rows import Rows
from faceq.query.sql import SINGLE_PICTURE
from faceq.report.charts import Chart, ThresholdLine, bars, cells
from faceq.report.comparison import short
from faceq.report.faces import Face, Faces, sample
from faceq.report.histograms import histogram, measure_charts
from faceq.report.scope import face_scope, further_faces
from faceq.report.selection import selection_section
from faceq.report.videos import videos
from faceq.storage.settings import S3Settings
from faceq.table.measure_columns import MEASURES
from faceq.table.recommended import MIN_SCORES
from faceq.table.schema import BREAK, COLUMNS, STATUSES

SCALES = {"serfiq": 1.0, "dbcnn": 100.0}
STEPS = 100
"""Number of steps on the scale of a score, for the sliders and for the counts in the page."""

DRAWN = (*(column for column in COLUMNS if column.name in ("face_confidence", "align_error")), *MEASURES)
"""Columns with a histogram and faces at both ends, beside the scores and the pose."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
FACES_PER_QUANTILE = 3

FACE_STATUSES = tuple(status for status in STATUSES if status != "no_face")
"""Statuses that a face can have."""

SOURCES_SHOWN = 20
ERRORS_SHOWN = 12
POSE_STEP = 5
_POSE_SIDE = 90
_CHART_BINS = 50


@dataclass(frozen=True)
class Counts:
    """The counts in the page.

    statuses: number of rows by status. grid: (STEPS + 1, STEPS + 1) int64, number of rows with both scores,
    by the step of `serfiq` and the step of `dbcnn`; the last step is the top of the scale. serfiq, dbcnn:
    (STEPS + 1,) int64, number of all rows with that score, by step.
    """

    statuses: dict[str, int]
    grid: np.ndarray
    serfiq: np.ndarray
    dbcnn: np.ndarray

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())


def build(
    uri: str,
    s3: S3Settings,
    with_pictures: bool = True,
    selection: str | None = None,
    *,
    per_face: bool = False,
) -> str:
    """Build the HTML report on a result table.

    Args:
        uri: folder or URI of a result table.
        s3: settings of the file system, also for the sources.
        with_pictures: whether to read sample faces, and frames of clips, from their sources.
        selection: the Parquet file of a selection to show, too.
        per_face: count faces instead of frames. Errors and videos are of frames: such a page leaves them out.

    Raises:
        UsageError: there is no table, or the selection is not one of this table, or it is one of frames and
            the page is about faces.
    """
    with Rows(uri, s3, faces=per_face) as rows:
        selected = selection_section(rows, selection, s3, with_pictures) if selection is not None else None
        counts = count(rows)
        sources, n_sources = _sources(rows)
        measures = measure_charts(rows, DRAWN)
        names = [measure.column.name for measure in measures]
        faces = sample(rows, SCALES, names, s3) if with_pictures else None
        quantiles = _quantiles(rows)
        runs = rows.table.runs()
        page = {
            "version": __version__,
            "table": rows.table.uri,
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "runs": runs,
            "thing": rows.noun,
            "things": rows.view,
            "of_faces": face_scope(rows, runs) if per_face else None,
            "further_faces": 0 if per_face else further_faces(rows),
            "counts": counts,
            "statuses": FACE_STATUSES if per_face else STATUSES,
            "charts": _charts(
                counts, {angle: _pose(rows, angle) for angle in ("yaw", "pitch", "roll")}, rows.view
            ),
            "sources": sources,
            "n_sources": n_sources,
            "errors": None if per_face else _errors(rows),
            "faces": faces,
            "videos": None if per_face else videos(rows, s3, with_pictures),
            "selection": selected,
            "strips": _strips(quantiles, faces),
            "measures": measures,
            "filters": {name: conditions.explain(rows, each.condition) for name, each in FILTERS.items()},
            "start": MIN_SCORES,
            "data": _data(rows.table.uri, counts, faces),
        }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faceq", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_invisible,
    )
    environment.filters["short"] = short
    return environment.get_template("page.html").render(page)


def _escape_invisible(value: Any) -> Any:
    """Escape invisible characters in a string: bidi controls could otherwise change how a name looks."""
    return visible(value) if type(value) is str else value


def count(rows: Rows) -> Counts:
    """Count rows by status and by both scores, in one pass."""
    steps = f"{_step('serfiq')} AS s, {_step('dbcnn')} AS d"
    found = rows.sql(f"SELECT status, {steps}, count(*) AS n FROM {rows.view} GROUP BY ALL")
    statuses = dict.fromkeys(STATUSES, 0)
    grid = np.zeros((STEPS + 1, STEPS + 1), np.int64)
    serfiq, dbcnn = np.zeros(STEPS + 1, np.int64), np.zeros(STEPS + 1, np.int64)
    for cell in rows.arrow(found).to_pylist():
        statuses[cell["status"]] += cell["n"]
        if cell["s"] is not None:
            serfiq[cell["s"]] += cell["n"]
        if cell["d"] is not None:
            dbcnn[cell["d"]] += cell["n"]
            grid[cell["s"], cell["d"]] += cell["n"]
    return Counts(statuses, grid, serfiq, dbcnn)


def _step(score: str) -> str:
    """SQL: the highest step of the scale that a score reaches, consistent with conditions such as
    `score >= 0.07`.

    100 times the float32 value of 0.07 may be less than 7, so the score is compared with the nearest step.
    """
    per_unit = round(STEPS / SCALES[score])
    nearest = f"round({score} * {per_unit})"
    return f"({nearest} - ({score} < ({nearest} / {per_unit})::FLOAT)::INT)::INT"


def _pose(rows: Rows, angle: str) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of a pose angle: edges in degrees, and counts."""
    edges = np.arange(-_POSE_SIDE, _POSE_SIDE + 1, POSE_STEP)
    return edges, histogram(rows, angle, edges)


def _sources(rows: Rows) -> tuple[list[dict[str, Any]], int]:
    """The sources with the lowest mean `serfiq`, where a row without a `serfiq` counts as 0; and the number
    of all sources. Single images are grouped by folder."""
    single = f"{SINGLE_PICTURE} AND frame_index <> {BREAK}"
    found = rows.arrow(
        rows.sql(
            f"""
            SELECT *, count(*) OVER () AS sources FROM (
                SELECT
                    CASE WHEN {single} THEN regexp_extract(source, '^.*/') ELSE source END AS name,
                    count(*) AS rows,
                    coalesce(sum(serfiq), 0) / count(*) AS usable,
                    avg(serfiq) AS serfiq,
                    avg(dbcnn) AS dbcnn,
                    count(*) FILTER (status = 'scored') / count(*) AS scored,
                    count(*) FILTER (status = 'no_face') / count(*) AS no_face,
                    count(*) FILTER (status = 'unreadable') / count(*) AS unreadable,
                    min(error) FILTER (frame_index = {BREAK} AND member IS NULL) AS break_off
                FROM {rows.view} GROUP BY name
            )
            ORDER BY usable, name LIMIT {SOURCES_SHOWN}
            """
        )
    ).to_pylist()
    return found, found[0]["sources"] if found else 0


def _errors(rows: Rows) -> list[dict[str, Any]]:
    """The most common errors, each with one of its frames. Errors that differ only in numbers are merged."""
    return rows.arrow(
        rows.sql(
            f"""
            SELECT count(*) AS frames, arg_min(error, frame_id) AS error, arg_min(source, frame_id) AS source,
                arg_min(member, frame_id) AS member
            FROM frames WHERE status = 'unreadable'
            GROUP BY regexp_replace(error, '[0-9]+', '#', 'g')
            ORDER BY frames DESC, error LIMIT {ERRORS_SHOWN}
            """
        )
    ).to_pylist()


def _quantiles(rows: Rows) -> dict[str, list[float] | None]:
    """The QUANTILES of each score; None if no row has the score."""
    parts = ", ".join(f"quantile_cont({score}, {list(QUANTILES)}) AS {score}" for score in SCALES)
    return rows.arrow(rows.sql(f"SELECT {parts} FROM {rows.view}")).to_pylist()[0]


def _strips(quantiles: dict[str, list[float] | None], faces: Faces | None) -> dict[str, list[dict[str, Any]]]:
    """The quantiles of each score, each with the faces closest to it."""
    strips: dict[str, list[dict[str, Any]]] = {}
    for score, values in quantiles.items():
        pool = faces.by_score[score] if faces is not None else []
        strips[score] = [
            {"share": share, "value": value, "faces": _nearest(pool, score, value)}
            for share, value in zip(QUANTILES, values or (), strict=False)
        ]
    return strips


def _nearest(pool: list[Face], score: str, value: float) -> list[Face]:
    return sorted(pool, key=lambda face: abs(getattr(face, score) - value))[:FACES_PER_QUANTILE]


def _charts(counts: Counts, poses: dict[str, tuple[np.ndarray, np.ndarray]], things: str) -> dict[str, Chart]:
    """All charts, by name. things: what is counted, frames or faces."""
    steps_per_bin = STEPS // _CHART_BINS
    edges_of = {score: np.linspace(0, top, _CHART_BINS + 1).tolist() for score, top in SCALES.items()}
    charts = {}
    for score, by_step in (("serfiq", counts.serfiq), ("dbcnn", counts.dbcnn)):
        merged = _merge_top(by_step).reshape(_CHART_BINS, steps_per_bin).sum(axis=1)
        charts[score] = bars(
            edges_of[score],
            merged.tolist(),
            score,
            f"Histogram of {score} over {merged.sum():,} {things}",
            ThresholdLine(score),
            things,
        )
    for angle, (edges, found) in poses.items():
        name = f"Histogram of {angle} over {found.sum():,} {things}"
        charts[angle] = bars(edges.tolist(), found.tolist(), f"{angle}, degrees", name, things=things)
    grid = _merge_top(_merge_top(counts.grid).T).T
    merged = grid.reshape(_CHART_BINS, steps_per_bin, _CHART_BINS, steps_per_bin).sum(axis=(1, 3))
    charts["both"] = cells(
        (edges_of["serfiq"], edges_of["dbcnn"]),
        merged,
        ("serfiq", "dbcnn"),
        f"dbcnn against serfiq for {merged.sum():,} {things} with both scores; "
        f"darker cells have more {things}",
        [ThresholdLine("serfiq"), ThresholdLine("dbcnn", "y")],
    )
    return charts


def _merge_top(by_step: np.ndarray) -> np.ndarray:
    """Merge the top of the scale into the last bin: (STEPS + 1, …) to (STEPS, …)."""
    merged = by_step[:-1].copy()
    merged[-1] += by_step[-1]
    return merged


def _data(table: str, counts: Counts, faces: Faces | None) -> dict[str, Any]:
    """The data for the script of the page."""
    filled = np.argwhere(counts.grid)
    cells = [[int(s), int(d), int(counts.grid[s, d])] for s, d in filled]
    pool = faces.by_score if faces is not None else {}
    return {
        "table": visible(table),
        "rows": counts.rows,
        "scored": counts.statuses["scored"],
        "steps": STEPS,
        "cells": cells,
        "faces": {score: [vars(face) for face in chosen] for score, chosen in pool.items()},
    }

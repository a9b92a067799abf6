"""A table as one page: counts, histograms, bad sources, errors, and faces on either side of a threshold.

The page holds bins and samples, never rows, so a table of any length makes a page of some hundred
kilobytes, and of some megabytes with faces. It needs no network: styles, script, charts and pictures are in
it, and its content security policy lets it fetch nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jinja2
import numpy as np

from faceq import __version__
from faceq.messages.visible import visible
from faceq.query.rows import SINGLE_PICTURE, Rows
from faceq.report.charts import Chart, Cut, bars, cells
from faceq.report.faces import Face, Faces, sample
from faceq.storage.settings import S3Settings
from faceq.table.recommended import MIN_SCORES
from faceq.table.schema import BREAK, STATUSES

SCALES = {"serfiq": 1.0, "dbcnn": 100.0}
STEPS = 100
"""Steps of a score's scale: of the sliders, and bins of what the page counts."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
FACES_PER_QUANTILE = 3
SOURCES_SHOWN = 20
ERRORS_SHOWN = 12
POSE_STEP = 5
_POSE_SIDE = 90
_CHART_BINS = 50


@dataclass(frozen=True)
class Counts:
    """What the page counts.

    statuses: frames by status. grid: (STEPS + 1, STEPS + 1) int64, frames with both scores by the step of
    `serfiq` and of `dbcnn` that they have reached; the last is the top of the scale. serfiq, dbcnn:
    (STEPS + 1,) all frames with that score.
    """

    statuses: dict[str, int]
    grid: np.ndarray
    serfiq: np.ndarray
    dbcnn: np.ndarray

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())


def build(uri: str, s3: S3Settings, with_faces: bool = True) -> str:
    """The report on a result table, as HTML.

    Args:
        uri: folder or `s3://` prefix of a result table.
        s3: settings of the file system, for the sources too.
        with_faces: read sample faces back from their sources.

    Raises:
        UsageError: there is no table.
    """
    with Rows(uri, s3) as rows:
        counts = count(rows)
        sources, n_sources = _sources(rows)
        faces = sample(rows, SCALES, s3) if with_faces else None
        quantiles = _quantiles(rows)
        page = {
            "version": __version__,
            "table": rows.table.uri,
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "runs": rows.table.runs(),
            "counts": counts,
            "statuses": STATUSES,
            "charts": _charts(counts, {angle: _pose(rows, angle) for angle in ("yaw", "pitch", "roll")}),
            "sources": sources,
            "n_sources": n_sources,
            "errors": _errors(rows),
            "faces": faces,
            "strips": _strips(quantiles, faces),
            "start": MIN_SCORES,
            "data": _data(rows.table.uri, counts, faces),
        }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faceq", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown_as_text,
    )
    return environment.get_template("page.html").render(page)


def _shown_as_text(value: Any) -> Any:
    """What the page shows of a value: of a name each character that could turn the line around or hide."""
    return visible(value) if type(value) is str else value


def count(rows: Rows) -> Counts:
    """One pass over status and both scores."""
    steps = f"{_step('serfiq')} AS s, {_step('dbcnn')} AS d"
    found = rows.sql(f"SELECT status, {steps}, count(*) AS n FROM frames GROUP BY ALL")
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
    """SQL: how many steps of its scale a score has reached, by the same comparison as `score >= 0.07`.

    float32 0.07 times 100 may be less than 7; so the nearest step is compared with the score.
    """
    per_unit = round(STEPS / SCALES[score])
    nearest = f"round({score} * {per_unit})"
    return f"({nearest} - ({score} < ({nearest} / {per_unit})::FLOAT)::INT)::INT"


def _pose(rows: Rows, angle: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges in degrees and counts of a pose angle; the outermost bins hold all that lies beyond."""
    edges = np.arange(-_POSE_SIDE, _POSE_SIDE + 1, POSE_STEP)
    counts = np.zeros(len(edges) - 1, np.int64)
    bins = f"floor(least(greatest({angle}, {-_POSE_SIDE}), {_POSE_SIDE - 1}) / {POSE_STEP})::INT"
    statement = f"SELECT {bins} AS b, count(*) AS n FROM frames WHERE {angle} IS NOT NULL GROUP BY ALL"
    for cell in rows.arrow(rows.sql(statement)).to_pylist():
        counts[cell["b"] + _POSE_SIDE // POSE_STEP] = cell["n"]
    return edges, counts


def _sources(rows: Rows) -> tuple[list[dict[str, Any]], int]:
    """The worst sources, by the mean of `serfiq` in which a frame without a face counts 0; and how many
    sources there are. Single pictures go by their folder."""
    single = f"{SINGLE_PICTURE} AND frame_index <> {BREAK}"
    found = rows.arrow(
        rows.sql(
            f"""
            SELECT *, count(*) OVER () AS sources FROM (
                SELECT
                    CASE WHEN {single} THEN regexp_extract(source, '^.*/') ELSE source END AS name,
                    count(*) AS frames,
                    coalesce(sum(serfiq), 0) / count(*) AS usable,
                    avg(serfiq) AS serfiq,
                    avg(dbcnn) AS dbcnn,
                    count(*) FILTER (status = 'scored') / count(*) AS scored,
                    count(*) FILTER (status = 'no_face') / count(*) AS no_face,
                    count(*) FILTER (status = 'unreadable') / count(*) AS unreadable,
                    min(error) FILTER (frame_index = {BREAK}) AS break_off
                FROM frames GROUP BY name
            )
            ORDER BY usable, name LIMIT {SOURCES_SHOWN}
            """
        )
    ).to_pylist()
    return found, found[0]["sources"] if found else 0


def _errors(rows: Rows) -> list[dict[str, Any]]:
    """The most common errors, numbers in them aside, each with one of its frames."""
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
    """QUANTILES of each score; None where no frame has it."""
    parts = ", ".join(f"quantile_cont({score}, {list(QUANTILES)}) AS {score}" for score in SCALES)
    return rows.arrow(rows.sql(f"SELECT {parts} FROM frames")).to_pylist()[0]


def _strips(quantiles: dict[str, list[float] | None], faces: Faces | None) -> dict[str, list[dict[str, Any]]]:
    """For each score its quantiles, each with the faces that are nearest to it."""
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


def _charts(counts: Counts, poses: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Chart]:
    """Every chart, by name."""
    every = STEPS // _CHART_BINS
    edges_of = {score: np.linspace(0, top, _CHART_BINS + 1).tolist() for score, top in SCALES.items()}
    charts = {}
    for score, by_step in (("serfiq", counts.serfiq), ("dbcnn", counts.dbcnn)):
        merged = _topped(by_step).reshape(_CHART_BINS, every).sum(axis=1)
        charts[score] = bars(
            edges_of[score],
            merged.tolist(),
            score,
            f"Histogram of {score} over {merged.sum():,} frames",
            Cut(score),
        )
    for angle, (edges, found) in poses.items():
        name = f"Histogram of {angle} over {found.sum():,} frames"
        charts[angle] = bars(edges.tolist(), found.tolist(), f"{angle}, degrees", name)
    grid = _topped(_topped(counts.grid).T).T
    merged = grid.reshape(_CHART_BINS, every, _CHART_BINS, every).sum(axis=(1, 3))
    charts["both"] = cells(
        (edges_of["serfiq"], edges_of["dbcnn"]),
        merged,
        ("serfiq", "dbcnn"),
        f"serfiq against dbcnn, {merged.sum():,} frames with both; darker: more frames",
        [Cut("serfiq"), Cut("dbcnn", "y")],
    )
    return charts


def _topped(by_step: np.ndarray) -> np.ndarray:
    """(STEPS + 1, …) to (STEPS, …): the top of the scale joins the last bin."""
    joined = by_step[:-1].copy()
    joined[-1] += by_step[-1]
    return joined


def _data(table: str, counts: Counts, faces: Faces | None) -> dict[str, Any]:
    """What the page's script works with."""
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

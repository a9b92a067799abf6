"""Histograms of columns of a result table."""

from dataclasses import dataclass

import numpy as np

from faceq.query.rows import Rows
from faceq.report.charts import Chart, bars, round_step
from faceq.table.column import Column

_BINS = 40
"""About the number of bins of a measure."""

_RANGE = (0.01, 0.99)
"""Quantiles between which a measure is drawn; the outermost bins include all values beyond them."""


@dataclass(frozen=True)
class MeasureChart:
    """A measure in the page: its column, the number of rows that have it, its lowest value, and its
    histogram; None if all rows have the same value."""

    column: Column
    count: int
    lowest: float
    chart: Chart | None


def histogram(rows: Rows, column: str, edges: np.ndarray) -> np.ndarray:
    """Count the rows by the value of a column. The outermost bins include all values beyond them.

    Args:
        rows: the table, of frames or of faces.
        column: of numbers; rows where it is null do not count.
        edges: (N + 1,), ascending, equally spaced.

    Returns:
        (N,) int64.
    """
    counts = np.zeros(len(edges) - 1, np.int64)
    step = (edges[-1] - edges[0]) / len(counts)
    place = f"floor(({column}::DOUBLE - {edges[0]}) / {step})"
    bins = f"least(greatest({place}, 0), {len(counts) - 1})::INT"
    statement = f"SELECT {bins} AS b, count(*) AS n FROM {rows.view} WHERE {column} IS NOT NULL GROUP BY ALL"
    for cell in rows.arrow(rows.sql(statement)).to_pylist():
        counts[cell["b"]] = cell["n"]
    return counts


def measure_charts(rows: Rows, columns: tuple[Column, ...]) -> list[MeasureChart]:
    """The histograms of the measures that the table has."""
    stored = [column for column in columns if column.name in rows.stored]
    if not stored:
        return []
    ranges = ", ".join(
        f"approx_quantile({name}, {list(_RANGE)}) AS {name}, "
        f"[min({name}), max({name}), count({name})] AS {name}_all"
        for name in (column.name for column in stored)
    )
    found = rows.arrow(rows.sql(f"SELECT {ranges} FROM {rows.view}")).to_pylist()[0]
    charts = []
    for column in stored:
        if found[column.name] is None:
            continue
        low, high = found[column.name]
        lowest, highest, count = found[f"{column.name}_all"]
        chart = None
        if lowest < highest:
            edges = _edges(low, high) if low < high else _edges(lowest, highest)
            label = f"{column.name}, {column.unit}" if column.unit else column.name
            name = f"Histogram of {column.name} over {int(count):,} {rows.view}"
            counts = histogram(rows, column.name, edges).tolist()
            chart = bars(edges.tolist(), counts, label, name, things=rows.view)
        charts.append(MeasureChart(column, int(count), lowest, chart))
    return charts


def _edges(low: float, high: float) -> np.ndarray:
    """Edges at multiples of a round step that include both values."""
    step = round_step((high - low) / _BINS)
    first, last = np.floor(low / step), np.floor(high / step) + 1
    return np.round(np.arange(first, last + 1) * step, 12)

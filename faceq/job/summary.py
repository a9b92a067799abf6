"""The result of a job, and its summary for people."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from faceq.job import next_commands
from faceq.job.inputs import names_text
from faceq.job.progress import Progress, duration
from faceq.messages.masking import mask
from faceq.messages.visible import visible
from faceq.sources.listing import endings_text
from faceq.table.recommended import FILTER
from faceq.table.runs import Run
from faceq.table.schema import DECIMALS, STATUSES
from faceq.table.store import QUANTILES, Table, is_of, status_of

NOTES_SHOWN = 5
ERRORS_SHOWN = 3

_ERROR_FILES = 50
"""Maximum number of files that are searched for frequent errors."""

_WIDTH = 15
"""Characters of the first column."""

_NOT_COUNTED = "not counted: the process that counts frames died and was restarted during the run"


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        run: the run's record, among others `frames`, `rows`, `counts` (rows by status) and `notes`.
        table: folder or URI of the result table.
        before_seconds: from the start of `score`, or of the command, to the start of the graph.
        seconds: from the start of the graph to its end.
        after_seconds: from the end of the graph to the summary.
        first_seconds: seconds until the first batch had finished all stages: mostly the start of workers and
            the loading of models.
        first_rows: rows of that first batch.
        quantiles: of `serfiq` and `dbcnn`, over the rows that the run wrote.
        totals: rows of the whole table by status, if the run had nothing to do; `quantiles` are of these rows
            then. Otherwise None.
        errors: the most frequent errors of unreadable frames, with their numbers of frames.
        earlier_rows: rows of earlier runs in the table, without those that this run has replaced.
    """

    run: Run
    table: str
    seconds: float
    first_seconds: float
    first_rows: int
    quantiles: dict[str, list[float]]
    totals: dict[str, int] | None = None
    errors: dict[str, int] = field(default_factory=dict)
    earlier_rows: int = 0
    before_seconds: float = 0.0
    after_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """From the start of `score`, or of the command, to the summary."""
        return self.before_seconds + self.seconds + self.after_seconds

    @property
    def frames_per_second(self) -> float:
        """Speed without start-up, if there was more than one batch.

        In a short run, the frames that were in progress when the first ones were finished raise the rate: by
        a tenth if there are 500 frames in all.
        """
        rows = self.run.rows or 0
        if rows > self.first_rows > 0:
            return (rows - self.first_rows) / (self.seconds - self.first_seconds)
        return rows / self.seconds if rows else 0.0


def frequent_errors(table: Table, run_id: str | None = None) -> dict[str, int]:
    """The most frequent errors of a table, or of one of its runs, with their numbers of rows."""
    files = [path for path in table.row_files() if status_of(path) == "unreadable"]
    if run_id is not None:
        files = [path for path in files if is_of(path, run_id)]
    counts: Counter[str] = Counter()
    for path in files[:_ERROR_FILES]:
        counts.update(table.column(path, "error").drop_null().to_pylist())
    return dict(counts.most_common(ERRORS_SHOWN))


def figures(summary: Summary) -> dict[str, Any]:
    """The run as JSON for programs. The names are explained in docs/how-to/monitor.md."""
    run = summary.run
    rated = {
        name: dict(zip(map(str, QUANTILES), values, strict=True))
        for name, values in summary.quantiles.items()
    }
    counts = run.counts if summary.totals is None else {}
    return {
        "run_id": run.run_id if summary.totals is None else None,
        "frames": run.frames,
        "already_done": run.already_done or 0,
        "rows": run.rows or 0,
        "statuses": {status: counts.get(status, 0) for status in STATUSES},
        "rows_in_table": sum(summary.totals.values())
        if summary.totals
        else summary.earlier_rows + (run.rows or 0),
        "quantiles": rated,
        "errors": {mask(error): count for error, count in summary.errors.items()},
        "skipped": run.passed_over,
        "notes": run.notes,
        "seconds": round(summary.total_seconds, 3),
        "frames_per_second": round(summary.frames_per_second, 3),
    }


def figures_so_far(last: Progress) -> dict[str, Any]:
    """The same of a run that has failed or was stopped, as far as it is known.

    `last`: how far it was.
    """
    return {
        "run_id": last.run_id,
        "frames": last.frames,
        "rows": last.written,
        "statuses": {status: last.rows.get(status, 0) for status in STATUSES},
    }


def text(summary: Summary) -> str:
    """The run as a person reads it and pastes it into a ticket: what was run, frames and rows, counts by
    status, scores, errors, speed, and what to run next. If the run had nothing to do: the counts and scores
    of the whole table."""
    run = summary.run
    counts = run.counts if summary.totals is None else summary.totals
    sections = [
        _heading(summary),
        _frames(summary) if summary.totals is None else _totals(run, counts),
        [*_whose(summary), *_statuses(counts)],
        _quantiles(summary),
        _findings(summary, counts),
        _speed(summary) if summary.totals is None else [],
        _next(summary, counts),
    ]
    return "\n".join("\n".join(["", *section]) for section in sections if section)


def _heading(summary: Summary) -> list[str]:
    run = summary.run
    preset = run.config.get("preset")
    return [
        f"faceq {run.version}" + (f", preset {preset}" if preset else ""),
        _line("input", visible(mask(names_text(run.input)))),
        _line("table", visible(summary.table)),
        *([_line("run", run.run_id)] if summary.totals is None else []),
    ]


def _frames(summary: Summary) -> list[str]:
    run = summary.run
    rows = run.rows or 0
    if run.frames is None:
        lines = [_line("frames", _NOT_COUNTED), _count("rows", rows, "written")]
    else:
        lines = [_count("frames", run.frames, "read"), _count("rows", rows, "written, one for each frame")]
    if run.already_done:
        lines.append(_count("already done", run.already_done, "frames with a row, not read again"))
    if summary.earlier_rows:
        lines.append(_count("in the table", summary.earlier_rows + rows, "rows, with those of earlier runs"))
    return lines


def _whose(summary: Summary) -> list[str]:
    """A heading of figures about some rows of the table only; empty if they are about all of them."""
    if summary.totals is not None or not summary.earlier_rows:
        return []
    return [f"of this run's {summary.run.rows or 0:,} rows:"]


def _totals(run: Run, counts: dict[str, int]) -> list[str]:
    return [
        "nothing to do: every frame of the input has its row",
        "",
        _count("already done", run.already_done or 0, "frames of the input"),
        _count("rows", sum(counts.values()), "in the table"),
    ]


def _statuses(counts: dict[str, int]) -> list[str]:
    rows = sum(counts.values())
    numbers = [(status, counts.get(status, 0)) for status in STATUSES]
    return [_count(status, count, f"{count / rows if rows else 0:6.1%}") for status, count in numbers]


def _quantiles(summary: Summary) -> list[str]:
    if not summary.quantiles:
        return []
    lines = _whose(summary)
    lines.append(f"{'quantile':<{_WIDTH}}" + "".join(f"{q:>9.0%}" for q in QUANTILES))
    for name, values in summary.quantiles.items():
        lines.append(f"{name:<{_WIDTH}}" + "".join(f"{value:>9.{DECIMALS[name]}f}" for value in values))
    return lines


def _findings(summary: Summary, counts: dict[str, int]) -> list[str]:
    """Errors, files without frames, and notes."""
    run, lines = summary.run, []
    unreadable = counts.get("unreadable", 0)
    if unreadable:
        lines.append(_count("errors", unreadable, "unreadable frames; the most frequent errors:"))
        lines += [_count("", count, visible(error)) for error, count in summary.errors.items()]
    if run.passed_over:
        listed = visible(endings_text(run.passed_over))
        lines.append(_count("skipped", sum(run.passed_over.values()), f"files without frames: {listed}"))
    lines += [_line("note", visible(note)) for note in run.notes[:NOTES_SHOWN]]
    if len(run.notes) > NOTES_SHOWN:
        lines.append(_line("note", f"{len(run.notes) - NOTES_SHOWN:,} more are in the run's record"))
    return lines


def _speed(summary: Summary) -> list[str]:
    rows = summary.run.rows or 0
    if rows > summary.first_rows > 0:
        start = duration(summary.before_seconds + summary.first_seconds)
        rate = f"{summary.frames_per_second:,.1f} frames/s after a start of {start}"
    else:
        rate = f"{rows / summary.total_seconds if rows else 0.0:,.1f} frames/s, start included"
    return [_count("speed", rows, f"frames in {duration(summary.total_seconds)} ({rate})")]


def _next(summary: Summary, counts: dict[str, int]) -> list[str]:
    all_faces = summary.run.config.get("faces") == "all"
    commands = [next_commands.query(summary.table, FILTER, faces=all_faces)]
    if counts.get("unreadable"):
        commands.append(next_commands.query_errors(summary.table))
    commands.append(next_commands.report(summary.table))
    names = ["next", *[""] * (len(commands) - 1)]
    return [_line(name, command) for name, command in zip(names, commands, strict=True)]


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _count(name: str, count: int, what: str) -> str:
    return f"{name:<{_WIDTH}}{count:>10,}   {what}"

"""What a job did, and what a person reads of it at its end."""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from faceq.messages.visible import visible
from faceq.sources.listing import endings_text
from faceq.table.runs import Run
from faceq.table.schema import STATUSES
from faceq.table.store import QUANTILES

NOTES_SHOWN = 5

_UNCOUNTED = "frames in         not known: the process that counted them died, and the job went on"


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        run: the run's record, among others `frames`, `rows`, `counts` (rows by status) and `notes`.
        table: folder or `s3://` prefix of the result table.
        seconds: from the start of the graph to its end.
        first_seconds: seconds until the first batch had finished all stages: mostly the start of workers and
            the loading of models.
        first_rows: rows of that first batch.
        quantiles: of `serfiq` and `dbcnn`, over the rows that the run wrote.
        totals: rows of the whole table by status, if the run had nothing to do; `quantiles` are of these rows
            then. Otherwise None.
    """

    run: Run
    table: str
    seconds: float
    first_seconds: float
    first_rows: int
    quantiles: dict[str, list[float]]
    totals: dict[str, int] | None = None

    @property
    def frames_per_second(self) -> float:
        """Speed without start-up, if there was more than one batch.

        Frames that were half done when the first ones were through help a short run: by a tenth where there
        are 500 in all.
        """
        rows = self.run.rows or 0
        if rows > self.first_rows > 0:
            return (rows - self.first_rows) / (self.seconds - self.first_seconds)
        return rows / self.seconds if rows else 0.0


def text(summary: Summary) -> str:
    """The run in some fifteen lines: frames and rows, counts by status, scores, speed, where it all is. Of a
    run that had nothing to do, the counts and scores of the whole table."""
    run = summary.run
    counts = run.counts if summary.totals is None else summary.totals
    rows = sum(counts.values())
    lines = ["", *(_of_run(run) if summary.totals is None else _of_table(run, rows)), ""]
    for status in STATUSES:
        count = counts.get(status, 0)
        lines.append(f"{status:<15}{count:>10,}   {count / rows if rows else 0:6.1%}")
    if summary.quantiles:
        lines += ["", "quantile       " + "".join(f"{q:>9.0%}" for q in QUANTILES)]
        for name, values in summary.quantiles.items():
            digits = 3 if name == "serfiq" else 1
            lines.append(f"{name:<15}" + "".join(f"{value:>9.{digits}f}" for value in values))
    if run.passed_over:
        listed = endings_text(run.passed_over)
        lines += ["", f"not frames     {sum(run.passed_over.values()):>10,}   skipped: {visible(listed)}"]
    if run.notes:
        lines += ["", *(f"note           {visible(note)}" for note in run.notes[:NOTES_SHOWN])]
        if len(run.notes) > NOTES_SHOWN:
            lines.append(f"note           {len(run.notes) - NOTES_SHOWN:,} more are in the run's record")
    lines.append("")
    if summary.totals is None:
        lines.append(
            f"speed          {summary.frames_per_second:>10.1f}   frames/s "
            f"({summary.seconds:.1f} s, {summary.first_seconds:.1f} s of it until the first were through)"
        )
    lines += [
        f"table          {visible(summary.table)}",
        f"look at it     {_command()} query {visible(shlex.quote(summary.table))} "
        '"serfiq >= 0.6 and dbcnn >= 55"',
    ]
    return "\n".join(lines)


def _of_run(run: Run) -> list[str]:
    rows = run.rows or 0
    frames = rows if run.frames is None else run.frames
    lines = [
        f"frames in      {frames:>10,}" if run.frames is not None else _UNCOUNTED,
        f"rows out       {rows:>10,}" + ("   = frames" if run.frames is not None else ""),
    ]
    if run.already_done:
        lines.append(f"already done   {run.already_done:>10,}   not read again")
    return lines


def _of_table(run: Run, rows: int) -> list[str]:
    return [
        "nothing to do: every frame of the input has its row",
        "",
        f"already done   {run.already_done:>10,}   frames of the input",
        f"rows           {rows:>10,}   in the table",
    ]


def _command() -> str:
    """How to call faceq from this shell: by its path where the environment is not activated."""
    return "faceq" if shutil.which("faceq") else shlex.quote(str(Path(sys.executable).with_name("faceq")))

"""Measure how the steps before a resumed job reads its first frame grow with the number of frames.

    python -m jobs.benchmarks.measure_resume 100_000 1_000_000 10_000_000
    python -m jobs.benchmarks.measure_resume 100_000 1_000_000 --images

Writes tar shards of 1,000 frames (or, with `--images`, a manifest of single images) and a table that has a
row for 99 of 100 shards. No frame is scored. Each number of frames is measured in its own process: seconds
of CPU to list the input, to compare it with the table, and to plan the read tasks, and the peak memory of
the process. The last column is what a finished job takes to find that there is nothing to do.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rich.console
import rich.table

from faceq import config
from faceq.job import datasource, inputs, resume
from faceq.sources.listing import Shard, group
from faceq.sources.reading import read_as, version_of
from faceq.stages.chosen_models import choose, comparison_record
from faceq.table import finished_shards
from faceq.table.finished_shards import Finished
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA, frame_id, wrap_int64
from faceq.table.store import Table
from jobs.benchmarks.own_process import in_own_process

EACH = 1000
"""Frames of a shard, and rows of a file of the table."""

RUN = "20260101T000000Z-aaaaaaaa"


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=int, nargs="+", metavar="N", help="number of frames of the input")
    parser.add_argument("--images", action="store_true", help="single images instead of tar shards")
    options = parser.parse_args()
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("frames", "list, s", "compare, s", "plan, s", "memory, MB", "nothing to do, s"):
        table.add_column(title, justify="right")
    for count in options.frames:
        with tempfile.TemporaryDirectory(prefix="faceq-resume-") as folder:
            settings = _prepare(Path(folder), count, options.images)
            found = in_own_process(_measured, settings)
        values = (found[name] for name in ("list", "compare", "plan", "memory", "nothing"))
        table.add_row(f"{count:,}", *(f"{value:,.1f}" for value in values))
    rich.console.Console().print(table)
    return 0


def _prepare(folder: Path, count: int, images: bool) -> config.Config:
    """Write the input and its table. The shards are empty files: they are not opened."""
    values: dict[str, Any] = {"out": f"{folder}/table"}
    if images:
        names = [f"/frames/{number // 1000:06}/{number % 1000:03}.jpg" for number in range(count)]
        pq.write_table(pa.table({"uri": names, "size": np.full(count, 60_000)}), folder / "frames.parquet")
        settings = config.build({**values, "manifest": [f"{folder}/frames.parquet"]})
    else:
        (folder / "in").mkdir()
        for shard in range(count // EACH):
            (folder / "in" / f"{shard:06}.tar").touch()
        settings = config.build({**values, "input": [f"{folder}/in"]})
    table = Table(f"{folder}/table", settings.s3)
    found = inputs.list_input(settings, table).shards
    finished = _write_rows(table, found, settings, images)
    record = comparison_record(settings, choose(settings))
    run = Run(RUN, "0", ["in"], record, settings.model_dump(), "", finished="2026", state="ended", rows=count)
    table.save(run)
    finished_shards.save(table, RUN, finished)
    return settings


def _write_rows(table: Table, shards: list[Shard], settings: config.Config, images: bool) -> list[Finished]:
    """Write a row for each frame of all shards but every hundredth. Returns the record of the shards."""
    animated = settings.read.animated == "frames"
    how = read_as(settings.limits, settings.any_name, animated, settings.read.encoding)
    schema = SCHEMA.remove(SCHEMA.get_field_index("status"))
    os.makedirs(f"{table.path}/status=scored")
    finished = []
    files = range(0, len(shards), EACH if images else 1)
    for number, first in enumerate(files):
        if number % 100 == 99:
            continue
        some = shards[first : first + EACH] if images else [shards[first]] * EACH
        members = [None if images else f"{index:04}.jpg" for index in range(len(some))]
        ids = [frame_id(shard.source, member, 0) for shard, member in zip(some, members, strict=True)]
        known = {
            "frame_id": ids,
            "source": [shard.source for shard in some],
            "member": members,
            "frame_index": [0] * len(some),
            "run_id": [RUN] * len(some),
        }
        columns = [
            pa.array(known[each.name], each.type) if each.name in known else pa.nulls(len(some), each.type)
            for each in schema
        ]
        path = f"{table.path}/status=scored/{RUN}-{number:06}.parquet"
        pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
        if not images:
            version = version_of(os.stat(some[0].path))
            finished.append(Finished(some[0].source, version, how, len(some), wrap_int64(sum(ids))))
    return finished


def _measured(settings: config.Config) -> dict[str, Any]:
    table = Table(settings.out or "", settings.s3)
    how = resume.read_settings(settings)
    marks = [time.process_time()]
    found = inputs.list_input(settings, table)
    marks.append(time.process_time())
    rest = resume.rest_of(table, found.shards, how, settings.fiq_threshold, limited=False)
    marks.append(time.process_time())
    groups = group(rest.shards)
    tasks = datasource.FrameSource(groups, how, None, None).get_read_tasks(len(groups))
    assert len(tasks) == len(groups)
    marks.append(time.process_time())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    left = {shard.source for shard in rest.shards}
    done = [shard for shard in found.shards if shard.source not in left]
    assert resume.nothing_to_do(table, done, how, settings.fiq_threshold)
    marks.append(time.process_time())
    names = ("list", "compare", "plan", "nothing")
    seconds = dict(zip(names, np.diff(marks).tolist(), strict=True))
    return {**seconds, "memory": memory}


if __name__ == "__main__":
    sys.exit(main())

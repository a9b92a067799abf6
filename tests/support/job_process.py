"""A job in its own process, for tests that kill it or parts of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from faceq import config
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

VALUES = [name for name in SCHEMA.names if name != "run_id"]


class Job:
    """`jobs.score` in its own process, with its own Ray. `first`: Python code that runs before it."""

    def __init__(
        self,
        shards: Path,
        folder: Path,
        environment: dict[str, str] | None = None,
        out: str | None = None,
        first: str = "",
    ):
        self.folder = folder
        file = folder / "job.yaml"
        file.write_text(f"input: {shards}\nout: {out or folder / 'table'}\nrows_per_file: 16\n")
        self.settings = config.load(str(file), {})
        run = "import runpy; runpy.run_module('jobs.score', run_name='__main__', alter_sys=True)"
        program = ["-c", f"{first}; {run}"] if first else ["-m", "jobs.score"]
        with open(folder / "log", "ab") as log:
            # Tests that run in the background or under nohup ignore some signals, and child processes inherit
            # that.
            heeding = ["env", "--default-signal=INT,TERM,HUP"]
            self.process = subprocess.Popen(
                [*heeding, sys.executable, *program, "--config", str(file)],
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )

    def files(self) -> list[Path]:
        return list((self.folder / "table").glob("status=*/[!.]*"))

    def until(self, fulfilled: Callable[[], object]) -> None:
        deadline = time.monotonic() + 200
        while not fulfilled():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            for path in self.files():
                pq.read_table(path)  # a file that has its final name is complete
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """Ray's worker processes of this job that run a task or an actor, or wait for one."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        titles = {process: title(process) for process in below}
        # Without the agents: the raylet dies with them, which is the loss of a whole node.
        return [p for p, name in titles.items() if name.startswith("ray::") and "Agent" not in name]

    def end(self) -> None:
        assert self.process.wait(280) == 0, self.said()

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def rows(self) -> list[dict]:
        table = Table(self.settings.out, self.settings.s3)
        return table.rows(VALUES).sort_by("frame_id").to_pylist()


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

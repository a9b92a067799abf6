"""Ends the graph of a job when the watchdog says so."""

from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

from faceq.job import watchdog
from faceq.job.census import OutageError


class _Stopping(ExecutionCallback):
    # Ray Data sends this class to the workers with its other settings, so it can hold only an id.
    job = ""

    def on_execution_step(self, executor: Any) -> None:
        reason = watchdog.reason_to_stop(self.job)
        if reason:
            raise OutageError(reason)


def callback(job: str) -> type[ExecutionCallback]:
    """A callback for each step of Ray Data's executor: it ends the graph with an OutageError after
    `watchdog.stop` was called for the job."""
    return type("Stopping", (_Stopping,), {"job": job})

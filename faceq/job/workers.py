"""Worker processes of this job that died, according to Ray's records."""

from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.core.generated import common_pb2, gcs_pb2

_Exit: Any = common_pb2.WorkerExitType  # type: ignore[attr-defined]  # generated when it is imported
_Record: Any = gcs_pb2.WorkerTableData  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Death:
    """A worker process that died: when, in Unix time by its machine's clock, and what is known about it."""

    time: float
    text: str


def deaths() -> dict[bytes, Death]:
    """The job's worker processes that died, by Ray's id; without those that Ray or the job ended on purpose.

    Ray's public list of workers needs the dashboard, which a local Ray does not start.
    """
    job = ray.get_runtime_context().get_job_id()
    found = {}
    for record in state.state._global_state_accessor.get_worker_table():
        worker = _Record.FromString(record)
        if (
            not worker.is_alive
            and worker.exit_type in (_Exit.SYSTEM_ERROR, _Exit.NODE_OUT_OF_MEMORY)
            and worker.job_id.hex() == job
        ):
            text = f"process {worker.pid} on {worker.worker_address.ip_address}: {_reason(worker)}"
            found[worker.worker_address.worker_id] = Death(worker.end_time_ms / 1000, text)
    return found


def last() -> Death | None:
    """The latest of the `deaths`; None if there are none."""
    return max(deaths().values(), key=lambda death: death.time, default=None)


def _reason(worker: Any) -> str:
    if worker.exit_type == _Exit.NODE_OUT_OF_MEMORY or "OOM" in worker.exit_detail.split("(1)")[0]:
        return "Ray ended it because the machine ran out of memory"
    return "it crashed or was killed, as the kernel does if memory runs out"

"""The reason why the graph of a job has failed, in one line."""

import contextlib
from typing import Any

import ray

from faceq.job import progress, workers
from faceq.job.census import OutageError
from faceq.messages.one_line import one_line

_OF_A_DEATH = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
)


def explain(error: Exception, census: Any) -> str:
    """Why the graph failed: the reason to stop if the job was stopped, otherwise what went wrong.

    Args:
        error: as Ray Data raised it.
        census: the job's `Census`, which may itself have died.
    """
    if isinstance(error, OutageError) and not isinstance(error, ray.exceptions.RayTaskError):
        return str(error)
    with contextlib.suppress(ray.exceptions.RayError):
        outage = ray.get(census.outage.remote(), timeout=progress.EVERY_S)
        if outage:
            return str(outage)
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error, OutageError):
        return _as_raised(error).partition(": ")[2]  # of a class of Ray's whose text is a traceback
    return f"a stage of the job failed: {_reason(error)}"


def _reason(error: Exception) -> str:
    if isinstance(error, ray.exceptions.RayTaskError):
        return _as_raised(error)
    if isinstance(error, ray.exceptions.ActorDiedError) and error.actor_init_failed:
        return _as_raised_in_constructor(error)
    if isinstance(error, _OF_A_DEATH):
        last = workers.last()
        died = f", the last one {last.text}" if last else ""
        return f"its worker processes died repeatedly{died}"
    return one_line(error)


def _as_raised(error: ray.exceptions.RayTaskError) -> str:
    """The error that ended a task, as Python wrote it in the worker: the first line of `Type: message`.

    `cause` is this error, but its message is not the one that was raised: Ray Data appends advice, in an
    OSError in place of the file name.
    """
    kind = type(error.cause)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raised = [line for line in str(error).splitlines() if line.startswith(f"{name}: ")]
    return raised[-1] if raised else name


def _as_raised_in_constructor(error: ray.exceptions.ActorDiedError) -> str:
    """The same for an error that an actor's constructor raised.

    Ray provides no `cause` for it, only the traceback: the error follows the indented stack frames.
    """
    _, _, last_frame = str(error).rpartition('\n  File "')
    raised = (line for line in last_frame.splitlines()[1:] if not line.startswith(" "))
    return next(raised, one_line(error))

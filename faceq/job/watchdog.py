"""Stops a job that cannot go on: nothing moves while its workers die, or what its stages ask for is nowhere.

Ray runs again what died, and waits for machines that it lacks, in some cases without end. A job in which
nothing moves for any other reason, a slow storage or the download of a model, is not stopped.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

from faceq.job.census import OutageError
from faceq.job.workers import Death

STILL_S = 600
"""Seconds without a single frame read, decoded or scored after which a job whose workers die is stopped. The
slowest batch that moves nothing meanwhile, 32 frames in 100 dropout passes on a shared CPU, takes a few
minutes."""

DEATHS = 3
"""Looks in that time that must have found workers that died: the loss of a machine is one, however many
worked there."""

SHORT_S = 1800
"""Seconds that a job waits for machines that can run its stages: an autoscaler needs minutes to bring one."""

SAY_S = 60
"""Seconds between two lines that say what a job waits for."""


class Watchdog:
    """Looks at a job again and again; decides whether it is to be stopped.

    deaths: gives the job's worker processes that have died (`workers.deaths`). shortage: gives what the
    machines lack, if they do. broken: gives what keeps workers from starting on this machine, if anything
    does.
    """

    def __init__(
        self,
        deaths: Callable[[], Mapping[bytes, Death]],
        shortage: Callable[[], str | None],
        broken: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._find_deaths, self._shortage, self._broken = deaths, shortage, broken
        self._clock = clock
        self._counts: tuple[int, ...] = ()
        self._still_since = self._said = clock()
        self._known = set(deaths())
        self._deaths_at: list[float] = []
        self._last = ""

    def look(self, counts: tuple[int, ...]) -> tuple[list[str], str | None]:
        """Called every few seconds.

        Args:
            counts: of what the job has done; something has moved if one of them grows. They fall where the
                process that counts has died.

        Returns:
            What to tell the user, and the reason to stop, or None.
        """
        now = self._clock()
        if any(new > old for new, old in zip(counts, self._counts, strict=False)):
            self._still_since, self._said, self._deaths_at = now, now, []
        self._counts = counts
        said = self._count_deaths(now)
        still = now - self._still_since
        if still < SAY_S:
            return said, None
        lacking = self._shortage()
        if lacking is None:
            return said, self._stuck(now) if still >= STILL_S else None
        if still >= SHORT_S:
            return said, f"stopped: nothing could run for {still / 60:.0f} minutes: {lacking}"
        if now - self._said >= SAY_S:
            self._said = now
            left = (SHORT_S - still) / 60
            said.append(f"waiting for machines, {left:.0f} minutes more: {lacking}")
        return said, None

    def _count_deaths(self, now: float) -> list[str]:
        deaths = self._find_deaths()
        new = {worker: death for worker, death in deaths.items() if worker not in self._known}
        if not new:
            return []
        self._known |= new.keys()
        self._deaths_at.append(now)
        self._last = max(new.values(), key=lambda death: death.time).text
        what = "a worker process died" if len(new) == 1 else f"{len(new)} worker processes died, the last one"
        return [f"{what}, {self._last}; its work is done again"]

    def _stuck(self, now: float) -> str | None:
        """Why a job cannot go on in which nothing has moved for long; None if nothing says so."""
        still = now - self._still_since
        where = f"stopped: nothing has moved for {still / 60:.0f} minutes"
        broken = self._broken()
        if broken:
            return f"{where}, and workers cannot start: {broken}"
        if sum(now - at < STILL_S for at in self._deaths_at) >= DEATHS:
            return (
                f"{where}, while worker processes died, the last one {self._last}: if memory ran out, raise "
                "num_cpus of the stages, so that fewer processes run at once"
            )
        return None


_REASONS: dict[str, str] = {}
"""By job: why it is to be stopped. What Ray Data calls in each step of its loop is a class that travels to
the workers with the other settings, so it can hold an id only."""


def stop(job: str, reason: str) -> None:
    """Stop the graph that runs with `stopping(job)` among its callbacks."""
    _REASONS[job] = reason


class _Stopping(ExecutionCallback):
    job = ""

    def on_execution_step(self, executor: Any) -> None:
        reason = _REASONS.get(self.job)
        if reason:
            raise OutageError(reason)


def stopping(job: str) -> type[ExecutionCallback]:
    """A callback for Ray Data's executor that ends it with an OutageError once `stop` was called."""
    return type("Stopping", (_Stopping,), {"job": job})

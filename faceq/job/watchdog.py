"""Stops a job that cannot go on: it makes no progress while its workers die, or no machine has the resources
that its stages request.

Ray retries work that died, and waits for missing machines, in some cases forever. A job that makes no
progress for another reason, such as slow storage or the download of a model, is not stopped.
"""

import time
from collections.abc import Callable, Mapping

from faceq.job.workers import Death

STILL_S = 600
"""Seconds without a single frame read, decoded or scored after which a job whose workers die is stopped. The
slowest batch, 32 frames in 100 dropout passes on a shared CPU, takes a few minutes without visible
progress."""

DEATHS = 3
"""Minimum number of checks in that time that found new dead workers. The loss of a machine counts as one,
however many workers ran there."""

SHORT_S = 1800
"""Seconds that a job waits for machines that can run its stages: an autoscaler needs minutes to add one."""

SAY_S = 60
"""Seconds between two messages about what a job waits for."""


class Watchdog:
    """Checks a job repeatedly and decides whether to stop it.

    deaths: returns the job's worker processes that have died (`workers.deaths`). shortage: returns what the
    machines lack, or None. broken: returns the reason why workers cannot start on this machine, or None.
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
            counts: of what the job has done. The job has made progress if one of them has grown. They fall if
                the process that counts was restarted.

        Returns:
            Messages for the user, and the reason to stop, or None.
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
            return said, f"stopped: no stage could run for {still / 60:.0f} minutes: {lacking}"
        if now - self._said >= SAY_S:
            self._said = now
            left = (SHORT_S - still) / 60
            said.append(f"waiting for machines, at most {left:.0f} minutes more: {lacking}")
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
        return [f"{what}, {self._last}; Ray retries its work"]

    def _stuck(self, now: float) -> str | None:
        """Why a job that has made no progress for long cannot go on; None if there is no sign of that."""
        still = now - self._still_since
        where = f"stopped: no progress for {still / 60:.0f} minutes"
        broken = self._broken()
        if broken:
            return f"{where}, and workers cannot start: {broken}"
        if sum(now - at < STILL_S for at in self._deaths_at) >= DEATHS:
            return (
                f"{where} while worker processes died, the last one {self._last}: if memory ran out, raise "
                "num_cpus of the stages, so that fewer processes run at once"
            )
        return None


_REASONS: dict[str, str] = {}
"""By job: the reason to stop."""


def stop(job: str, reason: str) -> None:
    """Stop the graph whose callbacks include `stopping.callback(job)`."""
    _REASONS[job] = reason


def reason_to_stop(job: str) -> str | None:
    """The reason that `stop` got; None: the job goes on."""
    return _REASONS.get(job)

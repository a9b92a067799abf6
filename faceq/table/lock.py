"""One job at a time on a table: a job's record in the table is its lock, kept alive by a heartbeat.

A job writes its record, then looks at the others. Storage gives no lock that works everywhere, but what
was written is seen by whoever looks later; so of two jobs that start at once at least one sees the other,
and the rules in `await_rivals` let one go on. While it runs, a job writes its heartbeat every BEAT_S seconds
and looks whether the table is still its own; a job whose heartbeat is DEAD_AFTER_S old counts as dead. Ages
are differences between two times that the storage itself gave, so that clocks of machines need not agree.
"""

import contextlib
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from faceq.errors import FaceqError, JobError, UsageError
from faceq.table import heartbeats
from faceq.table.heartbeats import Seen
from faceq.table.runs import Run
from faceq.table.store import Table

log = logging.getLogger(__name__)

BEAT_S = 10
DEAD_AFTER_S = 60
_LOOK_AGAIN_S = 0.5


class Lock:
    """A table that a run holds.

    lost: why the table is no longer this run's; None while it is, as far as known. begun: see `begin`.
    may_write: whether workers of the run may be writing rows, or may have been when the run failed: then its
    record stays, since a row file must not be left without one.
    """

    def __init__(self, table: Table, run: Run):
        self.lost: str | None = None
        self.may_write = False
        self.begun = False
        self._table, self._run = table, run
        # Ids of the runs that had held the table when this one got it; None before.
        self._known: set[str] | None = None
        self._tell: Callable[[str], object] | None = None
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._heartbeat, daemon=True)

    def acquire(self, overwrite: bool) -> None:
        """Get the lock, or raise as `exclusive` does."""
        table, run = self._table, self._run
        # The heartbeat first: a record without one is an old version's, or one that has ended.
        heartbeats.beat(table, run.run_id)
        self._beating.start()  # there may be thousands of records to read
        table.save(replace(run, state="claiming"))
        seen = await_rivals(table, run)
        others = [other for other in table.runs() if other["run_id"] != run.run_id]
        table.check(None if overwrite else run.record)
        run.sequence = 1 + max((other.get("sequence", 0) for other in others), default=0)
        run.state = "running"
        table.save(run)
        known = {other["run_id"] for other in others if other.get("state") in ("running", "ended")}
        for run_id, at in seen.items():
            # Of a dead job; not of one that is about to write its record and to see this one's.
            if at.heartbeat and run_id != run.run_id and (run_id in known or not _fresh(run, at, seen)):
                heartbeats.stop(table, run_id)
        self._known = known

    def give_up(self) -> None:
        """Take back what `acquire` has written."""
        self._end_beating()
        _forget(self._table, self._run)

    def begin(self) -> None:
        """Record the run as it is: the job is sure to run. Whatever fails from here on is a failed job."""
        self._table.save(self._run)
        self.begun = True

    def check(self) -> None:
        """JobError if the table is no longer this run's: another job has begun to write here, also one that
        is through with it, or the record was deleted."""
        self._look()
        if self.lost is not None:
            raise JobError(self.lost)

    @contextlib.contextmanager
    def notify_on_loss(self, tell: Callable[[str], object]) -> Iterator[None]:
        """In the block `tell` is called with the reason once the table is lost: from the heartbeat's thread,
        at every beat."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def end(self) -> None:
        """Free the table at once: the next job need not wait for the heartbeat to grow old."""
        self._end_beating()
        self._run.state = "ended"
        if self._run.finished or self.may_write or self._table.files_of(self._run.run_id):
            # A record that another job has deleted would come back into a table that is not this run's.
            if self.lost is None or self._table.run(self._run.run_id) is not None:
                self._table.save(self._run)
            heartbeats.stop(self._table, self._run.run_id)
        else:
            _forget(self._table, self._run)  # it wrote nothing

    def _end_beating(self) -> None:
        self._stop.set()
        if self._beating.ident is not None:
            self._beating.join()

    def _heartbeat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._look()
                if self.lost is None:
                    heartbeats.beat(self._table, self._run.run_id)
                elif (tell := self._tell) is not None:
                    tell(self.lost)  # each time: who was told may have died since
            except Exception as error:  # storage that fails now, in whatever way, may answer the next time
                log.warning("the heartbeat could not be written: %s", error)

    def _look(self) -> None:
        if self.lost is not None or self._known is None:
            return
        seen = heartbeats.look(self._table, self._run.run_id)
        for run_id in sorted(seen.keys() - self._known - {self._run.run_id}):
            other = self._table.run(run_id) or {}
            if other.get("state") in ("running", "ended"):
                self.lost = (
                    f"{self._table.uri}: {run_id} took this job for dead and has written here since, because "
                    f"this job had no heartbeat for {DEAD_AFTER_S} s: run the command again to continue with "
                    "what is there"
                )
                return
        if not seen[self._run.run_id].whole:
            self.lost = (
                f"{self._table.uri}: this job's record or heartbeat in _faceq was deleted: is the table "
                "being removed? If not, run the command again to continue with what is there"
            )


@contextlib.contextmanager
def exclusive(table: Table, run: Run, overwrite: bool = False) -> Iterator[Lock]:
    """The table is this run's, until the end of the block.

    Args:
        table: where the run writes.
        run: its record; gets its `sequence` and `state` here.
        overwrite: the run replaces the table, so that it may have been made with other settings.

    Raises:
        UsageError: another job is writing into the table (says which), or has made it with other settings
            since it was checked.
        JobError: what a UsageError said after `Lock.begin`: the table could be used when the job began.
    """
    lock = Lock(table, run)
    try:
        lock.acquire(overwrite)
    except BaseException:
        with contextlib.suppress(FaceqError):
            lock.give_up()
        raise
    try:
        yield lock
        lock.end()
    except BaseException as error:
        # What went wrong is the news, not that the storage, for the same reason, takes no record of it.
        with contextlib.suppress(FaceqError):
            lock.end()
        if isinstance(error, UsageError) and lock.begun:
            raise JobError(str(error)) from error
        raise


def _forget(table: Table, run: Run) -> None:
    """Take a run back that has written nothing, so that it does not tie the table to its settings."""
    heartbeats.stop(table, run.run_id)
    table.forget(run)


def await_rivals(table: Table, mine: Run) -> dict[str, Seen]:
    """Return when no other job lives here, nor is about to; of two at once the first by id stays. What was
    seen then."""
    while True:
        waiting = False
        seen = heartbeats.look(table, mine.run_id)
        for other in _alive(table, mine, seen):
            if other["state"] == "running" or other["run_id"] < mine.run_id:
                raise UsageError(
                    f"{table.uri}: another job is writing here: {other['run_id']} on "
                    f"{other['owner']['host']}, process {other['owner']['pid']}: wait for its end; if it "
                    f"is dead, its lock ends {DEAD_AFTER_S} s after its last heartbeat"
                )
            waiting = True  # it sees this run's claim, or has seen none and says so in a moment
        if not waiting:
            return seen
        time.sleep(_LOOK_AGAIN_S)
        heartbeats.beat(table, mine.run_id)


def _alive(table: Table, mine: Run, seen: dict[str, Seen]) -> list[dict[str, Any]]:
    """Records of other runs that claim the table or write into it, and may be alive."""
    if not seen[mine.run_id].whole:
        raise UsageError(f"{table.uri}: this job's record in _faceq was deleted: is the table being removed?")
    found = []
    for run_id, other in sorted(seen.items()):
        if run_id == mine.run_id or other.record is None:
            continue
        fresh = _fresh(mine, other, seen)
        if other.heartbeat is None and not fresh:
            continue  # it has ended
        record = table.run(run_id) or {}
        if record.get("state") in ("claiming", "running"):
            alive = _lives_here(record["owner"])
            if fresh if alive is None else alive:
                found.append(record)
    return found


def _fresh(mine: Run, other: Seen, seen: dict[str, Seen]) -> bool:
    """Whether another run's heartbeat, or in its place its record, is young beside this run's heartbeat."""
    last = other.record if other.heartbeat is None else other.heartbeat
    now = seen[mine.run_id].heartbeat
    return last is not None and now is not None and now - last < DEAD_AFTER_S


def owner() -> dict[str, Any]:
    """Who this process is; `machine`: where its pid means anything; `began`: which process of that pid."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "began": _began(pid)}


def _machine() -> str:
    """A digest of this boot of this machine and the container in it: where the same pid is the same process.

    Of more than the boot id, which machines share that were restored from one snapshot. Empty where it cannot
    be told: age alone decides.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux
    parts = [boot, container, socket.gethostname(), _first_line("/etc/machine-id"), *_hardware_addresses()]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _hardware_addresses() -> list[str]:
    """MAC addresses of the network cards, not of interfaces that come and go with containers."""
    cards = Path("/sys/class/net").glob("*/device")
    return sorted(_first_line(str(card.parent / "address")) for card in cards)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process of this machine began, in ticks since boot; None if it is gone or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _lives_here(other: dict[str, Any]) -> bool | None:
    """Whether a process of this machine is alive; None for one of another machine. The same pid may be
    another process's by now."""
    if not other["machine"] or other["machine"] != _machine():
        return None
    return _began(other["pid"]) == other["began"]

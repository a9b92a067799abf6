"""Lock a table so that only one job at a time writes into it.

The record of a job in the table is its lock, and a heartbeat keeps the lock alive. A job writes its record,
then reads the records of other jobs. There is no lock that works on every storage, but every job that reads
later sees what was written before. If two jobs start at the same time, at least one of them sees the other,
and the rules in `await_rivals` let one of them continue.

While it runs, a job writes its heartbeat every BEAT_S seconds and checks whether it still holds the table. A
job whose heartbeat is older than DEAD_AFTER_S counts as dead. Ages are differences between two timestamps of
the storage, so that the clocks of the machines need not agree.
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
_POLL_S = 0.5


class Lock:
    """The lock of a run on a table.

    lost: the reason why the run no longer holds the table; None while it holds it, as far as known. begun:
    see `begin`. may_write: whether workers of the run may be writing rows, or may have been when the run
    failed. If so, the record of the run is kept, because a row file must not be left without a record.
    """

    def __init__(self, table: Table, run: Run):
        self.lost: str | None = None
        self.may_write = False
        self.begun = False
        self._table, self._run = table, run
        # Ids of the runs that had held the table before this run; None until this run holds it.
        self._known: set[str] | None = None
        self._on_loss: Callable[[str], object] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True)

    def acquire(self, overwrite: bool) -> None:
        """Get the lock. Raises the same errors as `exclusive`."""
        table, run = self._table, self._run
        # Write the heartbeat first: a record without one belongs to an old version, or to a job that has
        # ended.
        heartbeats.beat(table, run.run_id)
        self._thread.start()  # before thousands of records may have to be read
        table.save(replace(run, state="claiming"))
        seen = await_rivals(table, run)
        others = [other for other in table.runs() if other["run_id"] != run.run_id]
        table.check(None if overwrite else run.record)
        run.sequence = 1 + max((other.get("sequence", 0) for other in others), default=0)
        run.state = "running"
        table.save(run)
        known = {other["run_id"] for other in others if other.get("state") in ("running", "ended")}
        for run_id, at in seen.items():
            # Remove the heartbeats of dead jobs, but not that of a job that is about to write its record: it
            # will see the record of this run.
            if at.heartbeat and run_id != run.run_id and (run_id in known or not _fresh(run, at, seen)):
                heartbeats.stop(table, run_id)
        self._known = known

    def give_up(self) -> None:
        """Delete everything that `acquire` has written."""
        self._stop_heartbeat()
        _forget(self._table, self._run)

    def begin(self) -> None:
        """Save the record of the run. All checks have passed: any error from here on means a failed job."""
        self._table.save(self._run)
        self.begun = True

    def check(self) -> None:
        """Raise JobError if the run no longer holds the table: another job has started to write here, even if
        it has finished by now, or the record was deleted."""
        self._check_ownership()
        if self.lost is not None:
            raise JobError(self.lost)

    @contextlib.contextmanager
    def notify_on_loss(self, tell: Callable[[str], object]) -> Iterator[None]:
        """Inside the block, once the lock is lost, `tell` is called with the reason: from the heartbeat
        thread, at every heartbeat."""
        self._on_loss = tell
        try:
            yield
        finally:
            self._on_loss = None

    def end(self) -> None:
        """Release the lock. The next job need not wait until the heartbeat expires."""
        self._stop_heartbeat()
        self._run.state = "ended"
        if self._run.finished or self.may_write or self._table.files_of(self._run.run_id):
            # If another job took over and deleted the record, do not write it again.
            if self.lost is None or self._table.run(self._run.run_id) is not None:
                self._table.save(self._run)
            heartbeats.stop(self._table, self._run.run_id)
        else:
            _forget(self._table, self._run)  # the run wrote nothing

    def _stop_heartbeat(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _heartbeat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._check_ownership()
                if self.lost is None:
                    heartbeats.beat(self._table, self._run.run_id)
                elif (tell := self._on_loss) is not None:
                    tell(self.lost)  # every time, because the receiver may have died and been replaced
            except Exception as error:  # the storage may work again at the next heartbeat
                log.warning("the heartbeat could not be written: %s", error)

    def _check_ownership(self) -> None:
        if self.lost is not None or self._known is None:
            return
        seen = heartbeats.look(self._table, self._run.run_id)
        for run_id in sorted(seen.keys() - self._known - {self._run.run_id}):
            other = self._table.run(run_id) or {}
            if other.get("state") in ("running", "ended"):
                self.lost = (
                    f"{self._table.uri}: the job {run_id} took over this table, because this job had no "
                    f"heartbeat for {DEAD_AFTER_S} s: run the command again to continue from the existing "
                    "rows"
                )
                return
        if not seen[self._run.run_id].is_complete:
            self.lost = (
                f"{self._table.uri}: the record or the heartbeat of this job in _faceq was deleted: if "
                "nobody is removing the table, run the command again to continue from the existing rows"
            )


@contextlib.contextmanager
def exclusive(table: Table, run: Run, overwrite: bool = False) -> Iterator[Lock]:
    """Hold the lock on a table inside the block.

    Args:
        table: the table that the run writes.
        run: the record of the run. Its `sequence` and `state` are set here.
        overwrite: the run replaces the table, so the table may have been made with other settings.

    Raises:
        UsageError: another job is writing into the table (the message names it), or another job has written
            with other settings since the table was checked.
        JobError: a UsageError was raised inside the block after `Lock.begin`. The table was usable when the
            job began, so the failure is one of the job.
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
        # Report the original error, not that the failing storage cannot save the record either.
        with contextlib.suppress(FaceqError):
            lock.end()
        if isinstance(error, UsageError) and lock.begun:
            raise JobError(str(error)) from error
        raise


def _forget(table: Table, run: Run) -> None:
    """Remove the record of a run that wrote nothing, so that its settings do not bind the table."""
    heartbeats.stop(table, run.run_id)
    table.forget(run)


def await_rivals(table: Table, mine: Run) -> dict[str, Seen]:
    """Wait until no other job runs on the table or is about to start. If two jobs start at the same time, the
    one with the smaller id continues. Returns the records and heartbeats that were seen last.

    Raises UsageError if another job is running, or is starting and has a smaller id.
    """
    while True:
        waiting = False
        seen = heartbeats.look(table, mine.run_id)
        for other in _alive(table, mine, seen):
            if other["state"] == "running" or other["run_id"] < mine.run_id:
                raise UsageError(
                    f"{table.uri}: another job is writing here: {other['run_id']} on "
                    f"{other['owner']['host']}, process {other['owner']['pid']}: wait until it ends; if it "
                    f"is dead, its lock expires {DEAD_AFTER_S} s after its last heartbeat"
                )
            waiting = True  # the other job gives way when it sees this one, or is about to become `running`
        if not waiting:
            return seen
        time.sleep(_POLL_S)
        heartbeats.beat(table, mine.run_id)


def _alive(table: Table, mine: Run, seen: dict[str, Seen]) -> list[dict[str, Any]]:
    """Records of other runs that are starting or running on the table, and may be alive."""
    if not seen[mine.run_id].is_complete:
        raise UsageError(
            f"{table.uri}: the record of this job in _faceq was deleted: if nobody is removing the table, "
            "run the command again"
        )
    found = []
    for run_id, other in sorted(seen.items()):
        if run_id == mine.run_id or other.record is None:
            continue
        fresh = _fresh(mine, other, seen)
        if other.heartbeat is None and not fresh:
            continue  # the run has ended
        record = table.run(run_id) or {}
        if record.get("state") in ("claiming", "running"):
            alive = _is_alive_here(record["owner"])
            if fresh if alive is None else alive:
                found.append(record)
    return found


def _fresh(mine: Run, other: Seen, seen: dict[str, Seen]) -> bool:
    """Whether the last heartbeat of another run is less than DEAD_AFTER_S older than the heartbeat of this
    run. If the other run has no heartbeat, its record is used instead."""
    last = other.record if other.heartbeat is None else other.heartbeat
    now = seen[mine.run_id].heartbeat
    return last is not None and now is not None and now - last < DEAD_AFTER_S


def owner() -> dict[str, Any]:
    """Identity of this process. `machine`: a digest of the machine on which the pid is valid. `began`: start
    time of the process, which tells it from other processes with the same pid."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "began": _began(pid)}


def _machine() -> str:
    """A digest of the machine, its current boot and its container. Within it, a pid identifies one process.

    The boot id alone is not enough: machines restored from one snapshot share it. The digest is empty if the
    system does not provide these data; then only the age of the heartbeat counts.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux
    parts = [boot, container, socket.gethostname(), _first_line("/etc/machine-id"), *_hardware_addresses()]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _hardware_addresses() -> list[str]:
    """MAC addresses of the physical network interfaces. Virtual ones come and go with containers."""
    interfaces = Path("/sys/class/net").glob("*/device")
    return sorted(_first_line(str(device.parent / "address")) for device in interfaces)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """Start time of a process on this machine, in ticks since boot; None if it has ended or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _is_alive_here(other: dict[str, Any]) -> bool | None:
    """Whether the owner of a run is alive on this machine; None if it runs on another machine. The start time
    is compared because the pid may have been reused."""
    if not other["machine"] or other["machine"] != _machine():
        return None
    return _began(other["pid"]) == other["began"]

"""One job at a time on a table: a job's record in the table is its claim, and its sign of life.

A job writes its record, then looks at the others. Storage gives no lock that works everywhere, but what
was written is seen by whoever looks later; so of two jobs that start at once at least one sees the other,
and the rules in `_settle` let one go on. While it runs, a job writes its record again and again; a record
that has not been written for DEAD_AFTER_S is a dead job's. Ages are differences between two times that
the storage itself gave, so that clocks of machines need not agree.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from faceq import streams
from faceq.errors import FaceqError, JobError, UsageError
from faceq.runs import Run, Table

BEAT_S = 10
DEAD_AFTER_S = 60
_LOOK_AGAIN_S = 0.5


@contextlib.contextmanager
def held(table: Table, run: Run) -> Iterator[None]:
    """The table is this run's, until the end of the block.

    Raises:
        UsageError: another job is writing into the table; says which, and when it was last seen.
        JobError: what a UsageError said inside the block: the table could be used when it began.
    """
    table.save(replace(run, state="claiming"))
    try:
        _settle(table, run)
        run.predecessors = frozenset(other["run_id"] for other in _holders(table, run))
        run.state = "running"
        table.save(run)
    except BaseException:
        with contextlib.suppress(FaceqError):
            table.forget(run)
        raise
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(table, run, stop), daemon=True)
    beating.start()
    try:
        try:
            yield
        except BaseException:
            # What went wrong is the news, not that the storage, for the same reason, takes no record of it.
            with contextlib.suppress(FaceqError):
                _end(table, run, stop, beating)
            raise
        _end(table, run, stop, beating)
    except UsageError as error:
        raise JobError(str(error)) from error


def _end(table: Table, run: Run, stop: threading.Event, beating: threading.Thread) -> None:
    """Free the table at once: the next job need not wait for the sign of life to grow old."""
    stop.set()
    beating.join()
    run.state = "ended"
    if run.finished or table.files_of(run.run_id):
        table.save(run)
    else:
        table.forget(run)  # it wrote nothing, and should not tie the table to its settings


def check_still_held(table: Table, run: Run) -> None:
    """JobError if another job has begun to write here, also one that is through with it: this one was taken
    for dead, and may not go on."""
    others = [other for other in _holders(table, run) if other["run_id"] not in run.predecessors]
    if others:
        raise JobError(
            f"{table.uri}: {others[0]['run_id']} took this job for dead and has written here since: this job "
            f"gave no sign of life for {DEAD_AFTER_S} s: start it again, and it goes on with what is there"
        )


def _holders(table: Table, mine: Run) -> list[dict[str, Any]]:
    """Records of other runs that hold the table or have held it."""
    held_it = [other for other in table.runs() if other.get("state") in ("running", "ended")]
    return [other for other in held_it if other["run_id"] != mine.run_id]


def _settle(table: Table, mine: Run) -> None:
    """Return when no other job lives here, nor is about to; of two at once the first by id stays."""
    while True:
        waiting = False
        for other in _alive(table, mine):
            if other["state"] == "running" or other["run_id"] < mine.run_id:
                raise UsageError(
                    f"{table.uri}: another job is writing here: {other['run_id']} on "
                    f"{other['owner']['host']}, process {other['owner']['pid']}: wait for its end; if it "
                    f"is dead, its claim ends {DEAD_AFTER_S} s after its last sign of life"
                )
            waiting = True  # it sees this run's claim, or has seen none and says so in a moment
        if not waiting:
            return
        time.sleep(_LOOK_AGAIN_S)
        table.save(replace(mine, state="claiming"))


def _alive(table: Table, mine: Run) -> list[dict[str, Any]]:
    """Records of other runs that claim the table or write into it, and may be alive."""
    now = table.written(mine.run_id)
    if now is None:
        raise UsageError(f"{table.uri}: this job's record in _faceq was deleted: is the table being removed?")
    found = []
    for other in table.runs():
        if other["run_id"] == mine.run_id or other.get("state") not in ("claiming", "running"):
            continue
        alive = _lives_here(other["owner"])
        if alive is None:
            written = table.written(other["run_id"])
            alive = written is not None and (now - written).total_seconds() < DEAD_AFTER_S
        if alive:
            found.append(other)
    return found


def _beat(table: Table, run: Run, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            table.save(run)
        except Exception as error:  # storage that fails now, in whatever way, may answer the next time
            streams.say(f"faceq: no sign of life could be written: {error}")


def owner() -> dict[str, Any]:
    """Who this process is; `machine`: where its pid means anything; `began`: which process of that pid."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "began": _began(pid)}


def _machine() -> str:
    """This boot of this machine, and the container in it: where the same pid is the same process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: age alone decides


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

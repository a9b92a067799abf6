"""The lock: one job at a time on a table, on local disks and on S3."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from faceq.errors import JobError, UsageError
from faceq.storage.settings import S3Settings
from faceq.table import heartbeats, lock
from faceq.table.runs import Run
from faceq.table.store import Table

counter = itertools.count()


def new_run(run_id: str | None = None, **owner) -> Run:
    return Run(
        run_id=run_id or f"20261123T170000Z-{next(counter):08x}",
        version="0",
        input=[],
        record={},
        config={},
        started="",
        owner={**lock.owner(), **owner},
    )


@pytest.fixture(params=["disk", "s3"])
def table(request, tmp_path) -> Table:
    if request.param == "disk":
        return Table(str(tmp_path / "table"), S3Settings())
    return Table(f"{request.getfixturevalue('s3')}/claim{next(counter)}", S3Settings())


def running(table: Table, **owner) -> Run:
    """The run record of a job that was killed while it ran."""
    run = new_run(**owner)
    run.state = "running"
    table.save(run)
    heartbeats.beat(table, run.run_id)
    return run


def finish(run: Run) -> None:
    run.finished = "2026-11-23T17:00:00+00:00"


def names_in(table: Table) -> set[str]:
    """The names of the files in _faceq."""
    table.files.invalidate_cache()
    found = table.files.ls(f"{table.path}/_faceq", detail=False) if table.files.exists(table.path) else []
    return {path.rsplit("/", 1)[1] for path in found}


def test_the_second_job_is_refused_and_leaves_nothing(table):
    with lock.exclusive(table, new_run("20261123T170000Z-aaaaaaaa")) as _:
        before = [run["run_id"] for run in table.runs()]
        refused = pytest.raises(UsageError, match=r"another job is writing here: .*-aaaaaaaa on .* process")
        with refused, lock.exclusive(table, new_run()):
            pass
        assert [run["run_id"] for run in table.runs()] == before
    with lock.exclusive(table, new_run()):
        pass


def test_a_job_that_failed_frees_the_table(table):
    with pytest.raises(ZeroDivisionError), lock.exclusive(table, new_run()):
        _ = 1 / 0
    with lock.exclusive(table, new_run()):
        pass


def test_a_dead_process_of_this_machine_is_known_at_once(table):
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = lock._began(dead.pid)
    running(table, pid=dead.pid, began=began)
    with pytest.raises(UsageError, match="another job is writing here"), lock.exclusive(table, new_run()):
        pass
    dead.kill()
    # Nobody waited for the process yet. A zombie counts as dead, too.
    deadline = time.monotonic() + 10
    while lock._began(dead.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    with lock.exclusive(table, new_run()):
        pass
    dead.wait()


def test_another_process_that_got_the_same_pid_is_not_the_job(table):
    running(table, pid=os.getpid(), began="1")
    with lock.exclusive(table, new_run()):
        pass


@pytest.mark.parametrize("version", ["this", "0.1.0"])
def test_a_job_on_another_machine_is_dead_when_its_heartbeat_is_old(table, version, monkeypatch):
    """Version 0.1.0 wrote no heartbeat. It rewrote its run record instead."""
    run = running(table, machine="another")
    if version == "0.1.0":
        heartbeats.stop(table, run.run_id)
    with pytest.raises(UsageError, match="another job is writing here"), lock.exclusive(table, new_run()):
        pass
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 2)
    time.sleep(3.1)  # S3 reports times in whole seconds
    with lock.exclusive(table, new_run()):
        pass


def test_a_running_job_writes_heartbeats(table, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 3)
    mine = new_run(machine="another")
    with lock.exclusive(table, mine):
        began = heartbeats.look(table, mine.run_id)[mine.run_id]
        time.sleep(4.5)
        with pytest.raises(UsageError, match="another job"), lock.exclusive(table, new_run()):
            pass
        now = heartbeats.look(table, mine.run_id)[mine.run_id]
        assert now.heartbeat > began.heartbeat + 2
        assert now.record == began.record  # its list of inputs may have megabytes
        path = f"{table.path}/_faceq/heartbeat-{mine.run_id}"
        assert table.files.size(path) < 100


def test_no_heartbeat_is_left_by_a_job_that_ended_or_by_one_that_was_killed_before(table, monkeypatch):
    running(table, pid=1, began="never")
    heartbeats.beat(table, "20261123T170000Z-00000000")  # a job that was killed before it wrote its record
    done, failed = new_run(), new_run()
    with lock.exclusive(table, done):
        finish(done)
    with pytest.raises(ZeroDivisionError), lock.exclusive(table, failed) as held:
        held.may_write = True
        _ = 1 / 0
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 0)
    with lock.exclusive(table, new_run()):
        pass
    names = names_in(table)
    assert {f"run-{run.run_id}.json" for run in (done, failed)} < names and len(names) == 3
    assert not [name for name in names if name.startswith("heartbeat")]


def test_concurrent_jobs_never_hold_the_lock_together(table):
    holding, most, won, wrong = [], [], [], []

    def job(run: Run) -> None:
        try:
            with lock.exclusive(table, run):
                holding.append(run)
                most.append(len(holding))
                time.sleep(0.3)
                holding.remove(run)
                won.append(run)
        except Exception as error:
            if not (isinstance(error, UsageError) and "another job" in str(error)):
                wrong.append(error)

    for _ in range(4):
        threads = [threading.Thread(target=job, args=(new_run(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong and set(most) == {1}
    assert len(won) >= 2  # the first job gets the lock, unless two see each other at the same time


def test_a_listing_of_another_thread_does_not_hide_a_record(table, monkeypatch):
    """The threads of a process share the file system and its cache of listings."""
    running(table)
    table.files.ls(f"{table.path}/_faceq", detail=True)
    # The listing above arrives in the cache after a thread has emptied it.
    monkeypatch.setattr(type(table.files), "invalidate_cache", lambda *rest: None)
    mine = running(table)
    assert heartbeats.look(table, mine.run_id)[mine.run_id].is_complete
    assert mine.run_id in {run["run_id"] for run in table.runs()}


def test_a_lock_whose_record_was_deleted_is_refused(table):
    mine = new_run()
    with pytest.raises(UsageError, match="was deleted"):
        lock.await_rivals(table, mine)


def test_a_living_process_of_this_machine_counts_as_alive_without_heartbeats(table, monkeypatch):
    running(table)
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 0)
    with pytest.raises(UsageError, match="another job"), lock.exclusive(table, new_run()):
        pass


@pytest.mark.parametrize("state", ["running", "ended"])
def test_a_job_that_was_taken_for_dead_does_not_finish(table, state):
    """The other job may still be running, killed, or finished."""
    before, killed, mine = new_run(), new_run(pid=1, began="never"), new_run()
    before.state, killed.state = "ended", "running"
    for run in (before, killed):
        table.save(run)
    with lock.exclusive(table, mine) as held:
        held.check()
        other = new_run(machine="another")
        other.state = state
        table.save(other)
        with pytest.raises(JobError, match=f"{other.run_id} took over this table"):
            held.check()


@pytest.mark.parametrize("how", ["taken over", "record deleted", "heartbeat deleted"])
def test_a_job_that_lost_the_table_notices_within_two_heartbeats(table, monkeypatch, how):
    monkeypatch.setattr(lock, "BEAT_S", 0.5)
    told: list[str] = []
    mine, other = new_run(), new_run(machine="another")
    with lock.exclusive(table, mine) as held, held.notify_on_loss(told.append):
        held.may_write = True  # keeps the record
        time.sleep(1.2)
        assert not told
        if how == "taken over":
            other.state = "running"
            table.save(other)
        elif how == "record deleted":
            table.forget(mine)
        else:
            heartbeats.stop(table, mine.run_id)
        time.sleep(2 * lock.BEAT_S + 0.4)
        assert told and (other.run_id in told[0] if how == "taken over" else "was deleted" in told[0])
        with pytest.raises(JobError):
            held.check()
    names = names_in(table)
    assert not [name for name in names if name.startswith("heartbeat")]
    # A deleted record is not written again, because the table may be another one by now.
    assert (f"run-{mine.run_id}.json" in names) == (how != "record deleted")


def test_only_one_of_two_jobs_with_different_settings_writes(table):
    """Both jobs checked the table while it was empty."""
    one, two = new_run(), new_run()
    one.record, two.record = {"fiq_threshold": 0.5}, {"fiq_threshold": 0.1}
    for run in (one, two):
        table.check(run.record)
    with lock.exclusive(table, one):
        finish(one)
    refused = pytest.raises(UsageError, match=r"fiq_threshold was 0\.5, is now 0\.1")
    with refused, lock.exclusive(table, two):
        pytest.fail("the second job got the table")
    assert names_in(table) == {f"run-{one.run_id}.json"}
    with lock.exclusive(table, two, overwrite=True):
        pass


def test_runs_are_in_the_order_of_their_locks_whatever_their_clocks(table):
    ids = [f"{year}1123T170000Z-00000000" for year in (2031, 2026, 2030)]
    old = new_run("20271123T170000Z-00000000")  # a run of version 0.1.0, which did not number runs
    old.state = "ended"
    table.save(old)
    for run_id in ids:
        run = new_run(run_id)
        with lock.exclusive(table, run):
            finish(run)
    assert [run["run_id"] for run in table.runs()] == [old.run_id, *ids]


def test_a_machine_with_the_same_boot_id_but_another_name_is_another_machine(table, monkeypatch):
    """Both machines were restored from one snapshot. This machine has no process with that pid, but the job
    may run on the other one."""
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "twin")
    there = lock.owner()
    monkeypatch.undo()
    running(table, **{**there, "pid": 1 << 22, "began": "1"})
    with pytest.raises(UsageError, match=r"another job is writing here: .* on twin"):
        lock.exclusive(table, new_run()).__enter__()


def test_a_job_that_was_wrongly_taken_for_dead_does_not_stop_the_one_that_took_over(table):
    silent = new_run(machine="another")
    silent.state = "running"
    table.save(silent)
    mine = new_run()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lock, "DEAD_AFTER_S", 0)
        holding = lock.exclusive(table, mine)
        held = holding.__enter__()
    table.save(silent)
    heartbeats.beat(table, silent.run_id)
    held.check()
    holding.__exit__(None, None, None)


def test_a_job_that_waits_for_the_lock_has_not_taken_the_table(table):
    mine = new_run()
    with lock.exclusive(table, mine) as held:
        waiting = new_run(machine="another")
        table.save(waiting)
        held.check()


def test_the_error_is_reported_even_if_storage_fails_too(tmp_path, monkeypatch):
    table = Table(str(tmp_path / "table"), S3Settings())
    with pytest.raises(JobError, match="credentials have expired"), lock.exclusive(table, new_run()):

        def refused(run):
            raise UsageError("access denied")

        monkeypatch.setattr(table, "save", refused)
        monkeypatch.setattr(table, "forget", refused)
        raise JobError("credentials have expired")


def test_a_table_that_fails_when_the_job_has_begun_is_a_failed_job(table):
    with pytest.raises(JobError, match="no space left"), lock.exclusive(table, new_run()) as held:
        held.begin()
        raise UsageError(f"{table.uri}: cannot be used: no space left")


def test_wrong_usage_is_not_a_failed_job(table):
    """For example, missing resources of Ray are known only after the job has the lock."""
    with pytest.raises(UsageError, match="this machine has 2"), lock.exclusive(table, new_run()):
        raise UsageError("the stages ask for 400 CPUs, this machine has 2")
    assert not names_in(table)


def test_an_end_that_cannot_be_recorded_is_a_failed_job(table, monkeypatch):
    mine = new_run()
    with pytest.raises(JobError, match="access denied"), lock.exclusive(table, mine) as held:
        held.begin()

        def refused(run):
            raise UsageError("access denied")

        finish(mine)
        monkeypatch.setattr(table, "save", refused)


def test_the_record_has_the_owner_and_the_outcome(tmp_path):
    table = Table(str(tmp_path / "table"), S3Settings())
    run = new_run()
    with lock.exclusive(table, run):
        (there,) = table.runs()
        assert there["state"] == "running" and there["owner"]["pid"] == os.getpid()
        finish(run)
    (there,) = table.runs()
    assert there["state"] == "ended"
    assert json.dumps(there)

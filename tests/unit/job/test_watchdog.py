"""Which jobs the watchdog stops because they make no progress, and which it does not."""

import pytest

from faceq import config
from faceq.errors import JobError
from faceq.job import pipeline, progress, watchdog
from faceq.job.watchdog import DEATHS, SAY_S, SHORT_S, STILL_S, Watchdog
from faceq.job.workers import Death


class World:
    """The state that a watchdog observes, and its clock."""

    def __init__(self):
        self.now, self.dead, self.lacking, self.full = 0.0, {}, None, None
        self.dog = Watchdog(
            lambda: dict(self.dead), lambda: self.lacking, lambda: self.full, lambda: self.now
        )

    def die(self, count: int = 1) -> None:
        for _ in range(count):
            number = len(self.dead)
            self.dead[str(number).encode()] = Death(self.now, f"process {number} on 10.0.0.1: killed")

    def until(self, end: float, moved: int = 0, every: float = 10, dying_every: float | None = None):
        """Advance the time. Returns all messages, and the reason to stop."""
        said, died = [], self.now
        while self.now < end:
            self.now += every
            if dying_every and self.now - died >= dying_every:
                died = self.now
                self.die()
            told, reason = self.dog.look((moved, 0))
            said += told
            if reason:
                return said, reason
        return said, None


def test_a_job_without_progress_whose_workers_die_is_stopped():
    world = World()
    said, reason = world.until(2 * STILL_S, dying_every=60)
    assert STILL_S <= world.now <= STILL_S + 20
    assert "no progress for 10 minutes" in reason and "process 9 on 10.0.0.1: killed" in reason
    assert len(said) == 10 and "process 0" in said[0] and "Ray retries its work" in said[0]


def test_a_slow_job_whose_workers_live_continues():
    assert World().until(20 * STILL_S) == ([], None)


def test_a_job_with_progress_continues_even_if_workers_die():
    world = World()
    for moved in range(40):
        assert world.until(world.now + STILL_S / 2, moved, dying_every=30)[1] is None


def test_the_loss_of_a_node_before_a_long_batch_does_not_stop_the_job():
    world = World()
    world.until(60)
    world.die(96)
    said, reason = world.until(5 * STILL_S)
    assert reason is None
    (line,) = said
    assert line.startswith("96 worker processes died, the last one, process")


def test_a_few_deaths_do_not_stop_the_job():
    world = World()
    assert world.until(10 * STILL_S, dying_every=STILL_S / (DEATHS - 1) + 20)[1] is None


def test_deaths_before_the_job_do_not_count():
    dead = {b"0": Death(0.0, "process 0 on 10.0.0.1: killed")}
    dog = Watchdog(lambda: dict(dead), lambda: None, lambda: None)
    assert dog.look((0, 0)) == ([], None)


def test_missing_resources_are_reported_each_minute():
    world = World()
    world.lacking = "each process of serfiq requests 1 GPU"
    said, reason = world.until(2 * SHORT_S)
    assert SHORT_S <= world.now <= SHORT_S + 20
    assert "no stage could run for 30 minutes: each process of serfiq" in reason
    assert len(said) == pytest.approx(SHORT_S / SAY_S, abs=2)
    assert said[0] == f"waiting for machines, at most 29 minutes more: {world.lacking}"


def test_a_new_node_ends_the_wait():
    world = World()
    world.lacking = "each process of serfiq requests 1 GPU"
    world.until(SHORT_S - 60)
    world.lacking = None
    assert world.until(3 * SHORT_S) == ([], None)


def test_a_full_temporary_folder_is_named():
    world = World()
    world.full = "/tmp/ray: 0.1 MB are free"
    _, reason = world.until(2 * STILL_S)
    assert reason.endswith("and workers cannot start: /tmp/ray: 0.1 MB are free")


def test_a_job_on_a_ray_without_the_requested_resources_ends(
    local_ray, photos, tmp_path, monkeypatch, caplog
):
    """An existing Ray may be a growing cluster, so faceq waits and says which resources are missing."""
    monkeypatch.setattr(progress, "EVERY_S", 1)
    monkeypatch.setattr(watchdog, "SAY_S", 1)
    monkeypatch.setattr(watchdog, "SHORT_S", 4)
    places = {"input": str(photos / "t1.jpg"), "out": str(tmp_path / "t")}
    with pytest.raises(JobError, match=r"^stopped: no stage could run .*serfiq requests .* 0\.5 GPUs"):
        pipeline.score(config.build({**places, "serfiq": {"num_gpus": 0.5, "device": "cpu"}}))
    assert "waiting for machines" in caplog.text

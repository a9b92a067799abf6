"""The census under the number of calls of a large job.

The full drill takes a minute on two free CPUs. Per 32 frames, a job makes four calls: one in the read task,
two in find_face, one in the last stage.
"""

import time

import psutil
import pytest
import ray

from faceq.job.census import Census
from faceq.job.tasks import most_starts

pytestmark = pytest.mark.timeout(3600)
TASKS = 10_000
ACTORS = 1_000
CALLERS = 3


@ray.remote(num_cpus=0.5)
def call(census, caller: int, batches: int) -> None:
    """Make the calls of the workers, as fast as they are answered."""
    waiting = []
    for batch in range(caller * batches, (caller + 1) * batches):
        waiting += [
            census.read.remote(batch % TASKS, batch * 32, 0, 32, [], 0, (0, batch * 32 + 31)),
            census.begin.remote(batch, most_starts(32)),
            census.decoded.remote(batch, 32, 0, None),
            census.frames_finished.remote({"scored": 32}),
        ]
        if len(waiting) >= ACTORS // CALLERS:
            ray.get(waiting[:100])
            waiting = waiting[100:]
    ray.get(waiting)


def test_calls_of_a_thousand_actors_are_answered_and_leave_no_memory_behind(local_ray, full):
    batches = 4_000 if full else 1_000
    census = Census.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(1_000_000, TASKS)
    ray.get(census.incarnation.remote())
    workers = psutil.Process().children(recursive=True)
    (actor,) = [worker for worker in workers if worker.cmdline()[:1] and "ray::Census" in worker.cmdline()[0]]
    calls = 4 * CALLERS * batches
    ray.get(
        [call.remote(census, caller, batches) for caller in range(CALLERS)]
    )  # after these, every task has its entries
    started, cpu = time.monotonic(), sum(actor.cpu_times()[:2])
    memory = actor.memory_info().rss
    running = [call.remote(census, caller, batches) for caller in range(CALLERS, 2 * CALLERS)]
    waits = []
    while running:
        asked = time.monotonic()
        ray.get(census.progress.remote())
        waits.append(time.monotonic() - asked)
        _, running = ray.wait(running, num_returns=len(running), timeout=0.1)
    seconds = time.monotonic() - started
    cpu = sum(actor.cpu_times()[:2]) - cpu
    grown = actor.memory_info().rss - memory
    print(f"\n{calls:,} calls: {calls / seconds:,.0f} a second, {cpu / calls * 1e6:.0f} us of CPU each")
    print(f"readers wait {sorted(waits)[len(waits) // 2]:.3f} s, {max(waits):.3f} s at most")
    print(f"{grown / 1e6:.1f} MB more")
    assert ray.get(census.progress.remote()).finished == 2 * 32 * CALLERS * batches
    assert calls / cpu > 2000
    assert grown < 32e6  # Ray's own records of calls stop growing at about 20 MB

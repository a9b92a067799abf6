"""The limit of a machine: how fast it runs the stages of the job if nothing else takes time.

One process per usable core, pinned to it, with one thread, reads its share of the frames, runs all stages and
makes the rows of the table, without Ray. All processes load and warm up their models, and then start at the
same time. The rate is the number of all frames, divided by the seconds of the process that takes longest.

If models run on a GPU, the limit is the lower of two rates, which are measured one after the other:

- the rate of the cores: as above, with the stages before the first one on a GPU, or, if that is find_face,
  with reading and decoding;
- the rate of the GPUs: the other stages in one process, one after the other, on tables in memory. It is
  multiplied by the number of GPUs.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import pyarrow as pa
import torch

from faceq.config import Config
from faceq.errors import UsageError
from faceq.job.worker_setup import set_up
from faceq.runtime import device
from faceq.sources.decode import image
from faceq.sources.frame import Frame, to_table
from faceq.sources.listing import Shard
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.stages.scorer import AT_ONCE
from faceq.stages.scores import ScoreFiq, ScoreQuality
from faceq.table.schema import schema, to_result_rows
from jobs.benchmarks.inputs import frames_of, shards_of
from jobs.benchmarks.steps import READ, StepClock, check_calls, measured

STAGES: dict[str, Callable[..., "Stage"]] = {
    "find_face": FindFace,
    "serfiq": ScoreFiq,
    "dbcnn": ScoreQuality,
}

WARM_UP_FRAMES = 16

READY_S = 300
"""Maximum time for loading and warming up models, in seconds."""

GPU_FRAMES = 512
GPU_S = 10
"""The rate of a GPU is measured with this many frames, again and again for this many seconds."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Stage = Callable[[pa.Table], pa.Table]


def measure(settings: Config) -> dict[str, Any]:
    """The limit for these settings, and the time of each step.

    Returns:
        rate (frames/s), frames, start_up (seconds until all models are warm), processes, cpu_ms (CPU time per
        frame by step), and, if models run on GPUs, cpu_rate, gpu_rate, and gpu_ms (wall time per frame by
        stage).
    """
    on_cores, on_gpu = split(settings)
    found = rate_of_cores(settings, on_cores)
    if not on_gpu:
        return found
    gpu = rate_of_gpu(settings, on_cores, on_gpu)
    rates = {"cpu_rate": found["rate"], "gpu_rate": torch.cuda.device_count() * gpu["rate"]}
    return {**found, **rates, "rate": min(rates.values()), "gpu_ms": gpu["gpu_ms"]}


def split(settings: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages before the first one on a GPU, and the others."""
    names = tuple(STAGES)
    first = next(
        (at for at, name in enumerate(names) if getattr(settings, name).runs_on == "cuda"), len(names)
    )
    return names[:first], names[first:]


# --- cores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What one process does. most: maximum number of frames. core: None where processes cannot be pinned."""

    settings: Config
    stages: tuple[str, ...]
    shards: list[Shard]
    most: int | None
    core: int | None


def rate_of_cores(settings: Config, stages: tuple[str, ...]) -> dict[str, Any]:
    """The rate of one process per core."""
    shares = shares_of(settings, stages)
    if not shares:
        raise UsageError("benchmark: the input has no frames")
    spawn = multiprocessing.get_context("spawn")
    given = (spawn.Barrier(len(shares)),)
    called = time.monotonic()
    with _one_thread(), concurrent.futures.ProcessPoolExecutor(len(shares), spawn, _keep, given) as pool:
        found = _results([pool.submit(_run, share) for share in shares])
    frames = sum(each["frames"] for each in found)
    seconds: collections.Counter[str] = collections.Counter()
    for each in found:
        seconds.update(each["seconds"])
    return {
        "frames": frames,
        "start_up": min(each["began"] for each in found) - called,
        "rate": frames / max(each["took"] for each in found),
        "processes": len(found),
        "cpu_ms": {step: 1000 * value / frames for step, value in seconds.items()},
    }


def shares_of(settings: Config, stages: tuple[str, ...]) -> list[Share]:
    """The shards of the input in shares of about the same size, one for each core, or fewer if there are
    fewer shards.

    With `limit`, each process takes the first frames of its share.
    """
    count = device.usable_cpus()
    pinned = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0))[:count] if pinned else [None] * count
    parts: list[list[Shard]] = [[] for _ in cores]
    sizes = [0] * len(cores)
    for shard in sorted(shards_of(settings), key=lambda shard: -(shard.size or 0)):
        least = sizes.index(min(sizes))
        parts[least].append(shard)
        sizes[least] += shard.size or 1
    busy = [(part, core) for part, core in zip(parts, cores, strict=True) if part]
    most = None if settings.limit is None else max(1, settings.limit // max(1, len(busy)))
    one = {name: getattr(settings, name).model_copy(update={"num_cpus": 1.0}) for name in stages}
    alone = settings.model_copy(update=one)
    return [Share(alone, stages, part, most, core) for part, core in busy]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start inside the block use one thread in libraries that compute in parallel."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


_start: Barrier


def _keep(barrier: Barrier) -> None:
    """Keep the barrier of all processes. A process can only receive it when it starts."""
    global _start  # noqa: PLW0603
    _start = barrier


def _run(share: Share) -> dict[str, Any]:
    """One process: its frames, its wall time, and its CPU time by step, both in seconds."""
    try:
        if share.core is not None:
            os.sched_setaffinity(0, {share.core})
        set_up(1)
        pa.set_cpu_count(1)
        clock = StepClock()
        with measured(clock):
            return _measured_run(share, clock)
    except BaseException:
        _start.abort()  # the others wait for this process
        raise


def _measured_run(share: Share, clock: StepClock) -> dict[str, Any]:
    settings, stages = share.settings, _load(share.settings, share.stages)
    warm_up = frames_of(settings, share.shards, WARM_UP_FRAMES)
    for _ in _finished(settings, stages, warm_up, clock):
        pass
    _start.wait(READY_S)
    clock.reset()
    began, frames, faces = time.monotonic(), 0, 0
    for table in _finished(settings, stages, frames_of(settings, share.shards, share.most), clock):
        frames += len(table)
        faces += len(table) - table["face_x"].null_count if "face_x" in table.column_names else 0
    took = time.monotonic() - began
    clock.stop()
    if faces:
        check_calls(clock)
    return {"frames": frames, "took": took, "began": began, "seconds": clock.seconds}


def _finished(
    settings: Config, stages: dict[str, Stage], frames: Iterator[Frame], clock: StepClock
) -> Iterator[pa.Table]:
    """Tables of frames that have passed the stages; of result rows, if these are all stages.

    The first stage gets batches as in the job. The others get AT_ONCE frames together, so that their
    mini-batches are full even if frames were dropped.
    """
    first, *others = [clock.timed(name, stage) for name, stage in stages.items()] or [_decoded(settings)]
    columns = schema(settings.embeddings, settings.all_faces)
    waiting: list[pa.Table] = []
    for batch in _batches(frames, settings.find_face.batch_size, clock):
        waiting.append(first(batch))
        if sum(map(len, waiting)) >= AT_ONCE:
            yield _rest(waiting, others, columns)
            waiting = []
    if waiting:
        yield _rest(waiting, others, columns)


def _batches(frames: Iterator[Frame], size: int, clock: StepClock) -> Iterator[pa.Table]:
    read = clock.timed(READ, lambda: to_table(itertools.islice(frames, size)))
    while len(batch := read()):
        yield batch


def _rest(waiting: list[pa.Table], stages: list[Stage], columns: pa.Schema) -> pa.Table:
    table = pa.concat_tables(waiting)
    for stage in stages:
        table = stage(table)
    return to_result_rows(table, columns, "benchmark") if "dbcnn" in table.column_names else table


def _decoded(settings: Config) -> Stage:
    """Decodes frames and drops their pixels: what remains for the cores if all stages run on GPUs."""

    def decode(batch: pa.Table) -> pa.Table:
        for data in batch["image"].drop_null().to_pylist():
            with contextlib.suppress(image.UnreadableError):
                image.decode(data, settings.max_pixels, settings.limits)
        return batch.drop_columns(["image"])

    return decode


def _load(settings: Config, names: Iterable[str]) -> dict[str, Stage]:
    models = choose(settings)
    return {name: STAGES[name](settings, models) for name in names}


def _results(running: list[concurrent.futures.Future[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The results of all processes. If one fails, its error is raised, and not that the others waited for
    it."""
    concurrent.futures.wait(running)
    errors = [error for each in running if (error := each.exception())]
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    return [each.result() for each in running]


# --- GPUs ----------------------------------------------------------------------------------------


def rate_of_gpu(settings: Config, before: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """The rate of the stages `names` in this process, one after the other, on tables that the stages `before`
    have made from the first frames.

    Returns:
        rate (frames/s) and gpu_ms (wall time per frame by stage).
    """
    frames = frames_of(settings, shards_of(settings), min(settings.limit or GPU_FRAMES, GPU_FRAMES))
    tables = list(_batches(frames, AT_ONCE, StepClock()))
    for stage in _load(settings, before).values():
        tables = [stage(table) for table in tables]
    stages = _load(settings, names)
    _through(stages, tables[0])  # warms up the models
    spent: collections.Counter[str] = collections.Counter()
    began, rows = time.monotonic(), 0
    for table in itertools.cycle(tables):
        spent.update(_through(stages, table))
        rows += len(table)
        if time.monotonic() - began > GPU_S:
            break
    rate = rows / (time.monotonic() - began)
    return {"rate": rate, "gpu_ms": {name: 1000 * spent[name] / rows for name in names}}


def _through(stages: dict[str, Stage], table: pa.Table) -> dict[str, float]:
    """Run a table through stages. Returns the seconds of each."""
    spent = {}
    for name, stage in stages.items():
        began = time.monotonic()
        table = stage(table)
        spent[name] = time.monotonic() - began
    return spent

"""A scoring job, from its settings to a table with a row for each frame."""

import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import faceq
from faceq.config import Config
from faceq.errors import JobError, UsageError
from faceq.job import checkpoint, failures, missed_crops, progress, resume, slow_steps
from faceq.job.census import Census
from faceq.job.cluster import ray_for, runs_here
from faceq.job.inputs import Input, list_input, no_frames, table_of
from faceq.job.resume import Rest, read_settings
from faceq.job.splitting import split_large
from faceq.job.summary import Summary, frequent_errors
from faceq.messages.masking import mask
from faceq.sources.listing import Shard, group
from faceq.stage_resources import Stage
from faceq.stages.chosen_models import ChosenModels, choose, comparison_record, fetch_options
from faceq.stages.placement import on_this_machine, shared_pool
from faceq.table import finished_shards, lock, repair
from faceq.table.runs import Run, new_run_id, unfinished
from faceq.table.schema import schema
from faceq.table.store import Table

log = logging.getLogger(__name__)


def score(
    config: Config,
    overwrite: bool = False,
    retry_unreadable: bool = False,
    reporter: progress.Reporter | None = None,
) -> Summary:
    """Score the input's frames and write the rows into the table, by Ray Data.

    Frames that already have a row are not read again. Runs on the Ray that this process is connected to;
    otherwise on the cluster that RAY_ADDRESS names, or on a Ray of its own.

    Args:
        config: the job.
        overwrite: first remove the existing table.
        retry_unreadable: score frames of the input again whose row is `unreadable`.
        reporter: receives the progress of the job; None: the log, every 10 s.

    Returns:
        What the run did: rows, counts by status, quantiles of the scores, speed.

    Raises:
        UsageError: an input, output or model that cannot be used as given, a licence that is not accepted, or
            another job that is writing into the table.
        StorageError: a disk or a store that the job needs is full, is down or denies access.
        JobError: the job was stopped because nearly nothing could be read, or a part of it failed. A
            StorageError is a JobError.
    """
    called = time.monotonic()
    table = table_of(config, retry_unreadable)
    here = runs_here()
    if here:
        config = on_this_machine(config)
    models = choose(config, here)
    if config.precision == "auto":
        log.info("precision: %s for serfiq, %s for dbcnn", *(each.precision for each in models.numerics))
    accepted = models.accept_terms()
    record = comparison_record(config, models)
    # Other machines do not ask again.
    config = config.model_copy(update={"accept_licence": bool(accepted)})
    models = replace(models, options=fetch_options(config))
    table.check(None if overwrite else record)
    with slow_steps.named("listing the input"):
        found = list_input(config, table)
    if not overwrite:
        higher = resume.higher_threshold(table, config.fiq_threshold)
        if higher:
            log.info("%s", higher)
    if not (overwrite or retry_unreadable):
        with slow_steps.named("comparing the input with the table"):
            frames = resume.nothing_to_do(table, found.shards, read_settings(config), config.fiq_threshold)
        if frames is not None:
            return _nothing_to_do(config, table, frames)
    models.fetch_all()
    if models.replaced or config.quality_scale:
        from faceq.stages.scores import check_own_models  # noqa: PLC0415 - torch takes seconds to import

        check_own_models(config, models)
    run = _new_run(config, record, accepted, found)
    with lock.exclusive(table, run, overwrite) as held:
        # The lock is released after this Ray is left: no worker of this job writes any more.
        with ray_for(config) as on_this_ray:
            shared = shared_pool(on_this_ray, ray.cluster_resources().get("CPU", 1)) if here else None
            config = checkpoint.with_checkpoint_rows(on_this_ray, found.shards)
            run.config = config.model_dump()  # the record also says which stages run on GPUs
            held.begin()
            # Nothing is deleted before this point: models, input, Ray and the lock are available.
            _make_room(table, run, found.shards, overwrite, retry_unreadable)
            graph = _score(config, models, found.shards, table, run, held, reporter, shared)
        with slow_steps.named("counting the rows in the table"):
            quantiles, totals = _count(table, run)
            run.notes = [*missed_crops.notes(table, run), *run.notes]
        held.check()
        earlier = [other for other in table.runs() if other["run_id"] != run.run_id]
        if run.rows or run.frames is None or (run.already_done and unfinished(earlier)):
            run.finished = _now()
        # Otherwise its record is removed: it would only tie an empty table to its settings.
    if not (run.finished or run.already_done):
        raise UsageError(no_frames(run.input, run.passed_over))
    errors = _errors(table, run, totals)
    return Summary(
        run,
        table.uri,
        graph.seconds,
        *graph.first,
        quantiles,
        totals,
        errors,
        graph.earlier_rows,
        before_seconds=graph.started - called,
        after_seconds=time.monotonic() - graph.started - graph.seconds,
    )


@dataclass(frozen=True)
class _Graph:
    """What the graph took. started: by `time.monotonic`. first: `Census.first_finished`. earlier_rows: rows
    of the table that the run has not written."""

    started: float
    seconds: float
    first: tuple[float, int]
    earlier_rows: int


def _make_room(table: Table, run: Run, shards: list[Shard], overwrite: bool, retry_unreadable: bool) -> None:
    if overwrite:
        removed = table.remove_others(run)
        log.info("--overwrite: removed the %s files of %s", f"{removed:,}", table.uri)
    if retry_unreadable:
        again = repair.forget_unreadable(table, {shard.source for shard in shards})
        log.info("--retry-unreadable: %s frames are tried again", f"{again:,}")


def _new_run(config: Config, record: dict[str, Any], accepted: dict[str, str], found: Input) -> Run:
    return Run(
        run_id=new_run_id(),
        version=faceq.__version__,
        input=[*config.input, *config.manifest],
        record=record,
        config=config.model_dump(),
        started=_now(),
        owner=lock.owner(),
        accepted=accepted,
        passed_over=found.passed_over,
        notes=found.notes,
        columns=schema(config.embeddings, config.all_faces).names,
    )


def _count(table: Table, run: Run) -> tuple[dict[str, list[float]], dict[str, int] | None]:
    """Count the run's rows and check their number; returns `quantiles` and `totals` of its `Summary`."""
    run.counts, quantiles = table.counts_and_quantiles(run.run_id)
    run.rows = sum(run.counts.values())
    totals = None
    if run.already_done and not run.rows:
        totals, quantiles = table.counts_and_quantiles()
    # None: the process that counted has died, and its successor started from zero.
    if run.frames is not None and run.rows != run.frames:
        raise JobError(f"{run.frames} frames were read but {run.rows} rows written to {table.uri}")
    return quantiles, totals


def _nothing_to_do(config: Config, table: Table, frames: int) -> Summary:
    """The summary of a job all of whose frames have a row. Nothing is run or recorded."""
    totals, quantiles = table.counts_and_quantiles()
    frames = min(frames, config.limit or frames)
    run = Run(
        run_id=new_run_id(),
        version=faceq.__version__,
        input=[*config.input, *config.manifest],
        record={},
        config=config.model_dump(),
        started=_now(),
        frames=0,
        rows=0,
        already_done=frames,
    )
    return Summary(run, table.uri, 0.0, 0.0, 0, quantiles, totals, _errors(table, run, totals))


def _errors(table: Table, run: Run, totals: dict[str, int] | None) -> dict[str, int]:
    """The most frequent errors of the run's rows, or of the whole table if `totals` are its rows."""
    counts = run.counts if totals is None else totals
    if not counts.get("unreadable"):
        return {}
    return frequent_errors(table, run.run_id if totals is None else None)


def _score(
    config: Config,
    models: ChosenModels,
    shards: list[Shard],
    table: Table,
    run: Run,
    held: lock.Lock,
    reporter: progress.Reporter | None,
    shared: Stage | None,
) -> _Graph:
    """Score the frames that have no row, and record on the run what the graph found. `shared`: see
    `run_graph`."""
    from faceq.job.graph import run_graph  # noqa: PLC0415 - `ray_for` imports it while Ray starts

    limited = config.limit is not None
    with slow_steps.named("comparing the input with the table"):
        rest = resume.rest_of(table, shards, read_settings(config), config.fiq_threshold, limited)
    _log_rest(rest, config)
    if not rest.shards:
        run.frames, run.already_done = 0, rest.already_done
        return _Graph(time.monotonic(), 0.0, (0.0, 0), len(rest.done))
    groups = group(split_large(rest.shards, config, shared))
    census = _start_census(len(shards), groups, rest.already_done, config)
    incarnation = ray.get(census.incarnation.remote())
    keeper = finished_shards.Keeper(
        table,
        run.run_id,
        lambda count: ray.get(census.shards_finished_since.remote(count), timeout=progress.EVERY_S),
        rest.known,
    )
    started = time.monotonic()
    held.may_write = True
    try:
        with held.notify_on_loss(census.stop.remote), keeper.running():
            run_graph(config, models, groups, rest.done, table, run, census, reporter, shared)
    except BaseException as error:
        _repair_after_failure(table, run, rest, held)
        if not isinstance(error, Exception):
            raise
        raise JobError(held.lost or failures.explain(error, census)) from error
    held.may_write = False
    seconds = time.monotonic() - started
    held.check()
    repair.drop_stragglers(table, run, rest.files)
    repair.drop_replaced(table, run, rest.again)
    keeper.replace(rest.shard_files)
    same_census = ray.get(census.incarnation.remote()) == incarnation
    _note_findings(run, census, config.limit, same_census)
    return _Graph(started, seconds, ray.get(census.first_finished.remote()), len(rest.done))


def _log_rest(rest: Rest, config: Config) -> None:
    """Say what a run that continues a table does."""
    if len(rest.again):
        log.info(
            "--fiq-threshold %g is lower than in an earlier run: %s frames with a serfiq in between are "
            "scored again, so that they get a dbcnn",
            config.fiq_threshold,
            f"{len(rest.again):,}",
        )
    if config.limit is not None:  # the input is counted while it is read
        done, of = len(rest.done), ""
    else:
        done = rest.frames_done
        left = rest.frames_left if config.read.animated == "first" else None
        of = "" if left is None else f" of {done + left:,}"
    if done:
        log.info("resuming: %s%s frames already done", f"{done:,}", of)


def _start_census(shards: int, groups: list[list[Shard]], already_done: int, config: Config) -> Any:
    """The job's `Census`, as an actor that Ray restarts when it dies."""
    # On the driver's own node: the job cannot run without it, so it must not depend on another node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    one_each = config.read.animated == "first"
    images = [one_each and all(s.kind == "picture" and s.known for s in some) for some in groups]
    frames = [len(some) if each else None for some, each in zip(groups, images, strict=True)]
    return Census.options(**options).remote(  # type: ignore[attr-defined]
        shards, len(groups), already_done, frames, config.limit
    )


def _repair_after_failure(table: Table, run: Run, rest: Rest, held: lock.Lock) -> None:
    """Delete the old rows of frames that were scored again. What fails here, the next run repairs."""
    if len(rest.again):
        # The error to report is the one that ended the graph.
        with contextlib.suppress(Exception):
            held.check()
            repair.drop_replaced(table, run, rest.again)


def _note_findings(run: Run, census: Any, limit: int | None, counted_all: bool) -> None:
    """Record on the run what the census has counted and found; JobError if too little could be read.

    `counted_all`: the census has not been restarted.
    """
    outage = ray.get(census.outage_at_the_end.remote())
    if outage:
        raise JobError(outage)
    if counted_all:
        run.frames, run.already_done = ray.get(census.totals.remote(limit))
    passed_over, met = ray.get(census.findings.remote())
    run.notes = [mask(note) for note in (*run.notes, *met)]
    run.passed_over = dict(Counter(run.passed_over) + Counter(passed_over))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

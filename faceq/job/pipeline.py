"""A scoring job, from its settings to a table with a row for each frame."""

import contextlib
import logging
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import faceq
from faceq.config import Config
from faceq.errors import JobError, UsageError
from faceq.job import checkpoint, failures, progress, resume
from faceq.job.census import Census
from faceq.job.cluster import ray_for
from faceq.job.graph import read_settings, run_graph
from faceq.job.resume import Rest
from faceq.job.summary import Summary
from faceq.messages.masking import mask
from faceq.sources.listing import Shard, ending_of, endings_text, exclude_below, group, list_shards
from faceq.stages.chosen_models import ChosenModels, choose, comparison_record, fetch_options
from faceq.stages.scores import check_own_models
from faceq.table import finished_shards, lock, repair
from faceq.table.runs import Run, new_run_id, unfinished
from faceq.table.store import Table

log = logging.getLogger(__name__)

INPUTS_SHOWN = 3


def score(
    config: Config,
    overwrite: bool = False,
    retry_unreadable: bool = False,
    reporter: progress.Reporter | None = None,
) -> Summary:
    """Score the input's frames and write the rows into the table, by Ray Data.

    Frames that have a row already are not read again. Runs on the Ray that this process is connected to;
    else on the cluster that RAY_ADDRESS names, or on a Ray of its own.

    Args:
        config: the job.
        overwrite: remove the table that is there first.
        retry_unreadable: try frames of the input again that have a row as unreadable.
        reporter: gets how far the job is; None: the log, every 10 s.

    Returns:
        What the run did: rows, counts by status, quantiles of the scores, speed.

    Raises:
        UsageError: an input or output or model that cannot be used as given, terms that are not accepted, or
            another job at work on the table.
        StorageError: a disk or a store that the job needs is full or down, or denies access.
        JobError: the job was stopped, because nearly nothing could be read or a part of it failed; a
            StorageError is one, too.
    """
    if config.out is None:
        raise UsageError("no output given: name the table's folder or s3:// prefix with --out")
    if retry_unreadable and config.limit is not None:
        raise UsageError("--retry-unreadable tries all unreadable frames of the input: leave --limit out")
    models = choose(config)
    accepted = models.accept_terms()
    record = comparison_record(config, models)
    table = Table(config.out, config.s3)
    # Other machines need not ask again.
    config = config.model_copy(update={"accept_licence": bool(accepted)})
    models = replace(models, options=fetch_options(config))
    table.check(None if overwrite else record)
    shards, passed_over, notes = _list_input(config, table)
    if not (overwrite or retry_unreadable):
        frames = resume.nothing_to_do(table, shards, read_settings(config), config.fiq_threshold)
        if frames is not None:
            return _nothing_to_do(config, table, frames)
    models.fetch_all()
    check_own_models(config, models)
    run = _new_run(config, record, accepted, passed_over, notes)
    with lock.exclusive(table, run, overwrite) as held:
        # The lock is released when this Ray is left: no worker of this job writes any more.
        with ray_for(config) as on_this_ray:
            config = checkpoint.with_checkpoint_rows(on_this_ray, shards)
            run.config = config.model_dump()  # which stages run on its GPUs goes on record, too
            held.begin()
            # Nothing is deleted before here: models, input, Ray and the lock are there.
            if overwrite:
                removed = table.remove_others(run)
                log.info("--overwrite: removed the %s files of %s", f"{removed:,}", table.uri)
            if retry_unreadable:
                again = repair.forget_unreadable(table, {shard.source for shard in shards})
                log.info("--retry-unreadable: %s frames are tried again", f"{again:,}")
            seconds, first = _score(config, models, shards, table, run, held, reporter)
        quantiles, totals = _count(table, run)
        held.check()
        earlier = [other for other in table.runs() if other["run_id"] != run.run_id]
        if run.rows or run.frames is None or (run.already_done and unfinished(earlier)):
            run.finished = _now()
        # Else its record is removed: it says nothing, and would tie a table without rows to these settings.
    if not (run.finished or run.already_done):
        raise UsageError(_no_frames(run))
    return Summary(run, table.uri, seconds, *first, quantiles, totals)


def _list_input(config: Config, table: Table) -> tuple[list[Shard], dict[str, int], list[str]]:
    """The shards of the input without those of the table itself; other files by their ending; notes."""
    others: set[str] = set()
    notes: list[str] = []
    shards = list_shards(config.input, config.s3, config.manifest, config.any_name, others, notes)
    shards = exclude_below(shards, table.uri)
    if not shards:
        raise UsageError(f"{table.uri}: the input holds nothing but the table itself")
    passed_over = Counter(ending_of(other) for other in others if not other.startswith(f"{table.uri}/"))
    return shards, dict(passed_over), [note for note in notes if not note.startswith(f"{table.uri}: ")]


def _new_run(
    config: Config,
    record: dict[str, Any],
    accepted: dict[str, str],
    passed_over: dict[str, int],
    notes: list[str],
) -> Run:
    return Run(
        run_id=new_run_id(),
        version=faceq.__version__,
        input=[*config.input, *config.manifest],
        record=record,
        config=config.model_dump(),
        started=_now(),
        owner=lock.owner(),
        accepted=accepted,
        passed_over=passed_over,
        notes=notes,
    )


def _count(table: Table, run: Run) -> tuple[dict[str, list[float]], dict[str, int] | None]:
    """Count the run's rows and check their number; `quantiles` and `totals` of its `Summary`."""
    run.counts, quantiles = table.counts_and_quantiles(run.run_id)
    run.rows = sum(run.counts.values())
    totals = None
    if run.already_done and not run.rows:
        totals, quantiles = table.counts_and_quantiles()
    # None: the process that counted has died, and another one goes on from nought.
    if run.frames is not None and run.rows != run.frames:
        raise JobError(f"{run.frames} frames were read but {run.rows} rows written to {table.uri}")
    return quantiles, totals


def _nothing_to_do(config: Config, table: Table, frames: int) -> Summary:
    """The summary of a job all of whose frames have a row; nothing is run or recorded."""
    totals, quantiles = table.counts_and_quantiles()
    frames = min(frames, config.limit or frames)
    inputs = [*config.input, *config.manifest]
    run = Run(new_run_id(), faceq.__version__, inputs, {}, {}, _now(), frames=0, rows=0, already_done=frames)
    return Summary(run, table.uri, 0.0, 0.0, 0, quantiles, totals)


def _no_frames(run: Run) -> str:
    """What an input holds that has no frame."""
    some = ", ".join(run.input[:INPUTS_SHOWN]) + (", …" if len(run.input) > INPUTS_SHOWN else "")
    counted = f": passed over {endings_text(run.passed_over)}" if run.passed_over else ""
    return f"{some}: no frames here{counted}"


def _score(
    config: Config,
    models: ChosenModels,
    shards: list[Shard],
    table: Table,
    run: Run,
    held: lock.Lock,
    reporter: progress.Reporter | None,
) -> tuple[float, tuple[float, int]]:
    """Score what has no row yet, and note on the run what the graph met.

    Returns:
        Seconds that the graph took, and `Census.first_through`.
    """
    limited = config.limit is not None
    rest = resume.rest_of(table, shards, read_settings(config), config.fiq_threshold, limited)
    if len(rest.again):
        log.info(
            "--fiq-threshold %g: %s frames below an earlier, higher threshold are scored further",
            config.fiq_threshold,
            f"{len(rest.again):,}",
        )
    if not rest.shards:
        run.frames, run.already_done = 0, rest.already_done
        return 0.0, (0.0, 0)
    groups = group(rest.shards)
    census = _start_census(len(shards), len(groups), rest.already_done)
    incarnation = ray.get(census.incarnation.remote())
    keeper = finished_shards.Keeper(
        table,
        run.run_id,
        lambda count: ray.get(census.finished_since.remote(count), timeout=progress.EVERY_S),
        rest.known,
    )
    started = time.monotonic()
    held.may_write = True
    try:
        with held.notify_on_loss(census.stop.remote), keeper.running():
            run_graph(config, models, groups, rest.done, table, run, census, reporter)
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
    return seconds, ray.get(census.first_through.remote())


def _start_census(shards: int, tasks: int, already_done: int) -> Any:
    """The job's `Census`, as an actor that Ray starts again when it dies."""
    # On the driver's own node: what the job cannot do without should not hang on another one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    return Census.options(**options).remote(shards, tasks, already_done)  # type: ignore[attr-defined]


def _repair_after_failure(table: Table, run: Run, rest: Rest, held: lock.Lock) -> None:
    """Delete the old rows of frames that were scored again. The next run finds what fails here."""
    if len(rest.again):
        # The error to report is the one that ended the graph.
        with contextlib.suppress(Exception):
            held.check()
            repair.drop_replaced(table, run, rest.again)


def _note_findings(run: Run, census: Any, limit: int | None, counted_all: bool) -> None:
    """Note on the run what the census has counted and found; JobError where too little could be read.

    `counted_all`: the census has not died meanwhile.
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

"""The Ray Data graph: from shards to the result table."""

import contextlib
import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import faceq
from faceq.config import Config
from faceq.errors import JobError, UsageError
from faceq.job import checkpoint, datasource, progress, resources, resume, watchdog, workers
from faceq.job.census import Census, OutageError
from faceq.job.cluster import MAX_RETRIES, pool_options, ray_for
from faceq.job.datasource import FrameSource, read_settings
from faceq.job.tasks import FindFaceActor, RunFiles, drop_done, find_face, most_starts, result_rows
from faceq.job.telling import telling
from faceq.job.worker_setup import set_up
from faceq.messages.masking import mask
from faceq.sources.listing import Shard, ending_of, endings_text, exclude_below, group, list_shards
from faceq.stages.chosen_models import ChosenModels, choose, comparison_record, fetch_options
from faceq.stages.scores import NO_FEATURES, NO_QUALITY, ScoreFiq, ScoreQuality, check_own_models
from faceq.table import finished_shards, repair
from faceq.table import lock as claim
from faceq.table.runs import Run, new_run_id, unfinished
from faceq.table.schema import schema, schema_with
from faceq.table.store import COMPRESSION, Table

log = logging.getLogger(__name__)

BLOCK_BYTES = 8 << 20
"""Most bytes of a block between two stages: some 30 faces' crops, or 200 small JPEGs. Ray's default of
128 MiB would make blocks of thousands of frames, and the first one wait for all of them."""


INPUTS_SHOWN = 3


@dataclass(frozen=True)
class Summary:
    """What a run did.

    seconds: from the start of the graph to its end. first_rows, first_seconds: rows of the first batch that
    was through all stages, and when it was: mostly the start of workers and the loading of models. quantiles:
    of the scores in its rows. totals: where it had nothing to do, the rows of the whole table by status;
    quantiles are of these rows then.
    """

    run: Run
    table: str
    seconds: float
    first_seconds: float
    first_rows: int
    quantiles: dict[str, list[float]]
    totals: dict[str, int] | None = None

    @property
    def frames_per_second(self) -> float:
        """Start-up apart, if there was more than one batch.

        Frames that were half done when the first ones were through help a short run: by a tenth where there
        are 500 in all.
        """
        rows = self.run.rows or 0
        if rows > self.first_rows > 0:
            return (rows - self.first_rows) / (self.seconds - self.first_seconds)
        return rows / self.seconds if rows else 0.0


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
    others: set[str] = set()
    notes: list[str] = []
    shards = list_shards(config.input, config.s3, config.manifest, config.any_name, others, notes)
    shards = exclude_below(shards, table.uri)
    if not shards:
        raise UsageError(f"{table.uri}: the input holds nothing but the table itself")
    if not (overwrite or retry_unreadable):
        frames = resume.nothing_to_do(table, shards, read_settings(config), config.fiq_threshold)
        if frames is not None:
            return _nothing_to_do(config, table, frames)
    models.fetch_all()
    check_own_models(config, models)
    run = Run(
        run_id=new_run_id(),
        version=faceq.__version__,
        input=[*config.input, *config.manifest],
        record=record,
        config=config.model_dump(),
        started=_now(),
        owner=claim.owner(),
        accepted=accepted,
        passed_over=dict(Counter(map(ending_of, (o for o in others if not o.startswith(f"{table.uri}/"))))),
        notes=[note for note in notes if not note.startswith(f"{table.uri}: ")],
    )
    with claim.exclusive(table, run, overwrite) as lock:
        # The lock is released when this Ray is left: no worker of this job writes any more.
        with ray_for(config) as settled:
            on_this_ray = checkpoint.with_checkpoint_rows(settled, shards)
            run.config = on_this_ray.model_dump()  # which stages run on its GPUs goes on record, too
            lock.begin()
            # Nothing is deleted before here: models, input, Ray and the lock are there.
            if overwrite:
                removed = table.remove_others(run)
                log.info("--overwrite: removed the %s files of %s", f"{removed:,}", table.uri)
            if retry_unreadable:
                again = repair.forget_unreadable(table, {shard.source for shard in shards})
                log.info("--retry-unreadable: %s frames are tried again", f"{again:,}")
            seconds, first = _score(on_this_ray, models, shards, table, run, lock, reporter)
        run.counts, quantiles = table.counts_and_quantiles(run.run_id)
        run.rows = sum(run.counts.values())
        totals = None
        if run.already_done and not run.rows:
            totals, quantiles = table.counts_and_quantiles()
        # None: the process that counted has died, and another one goes on from nought.
        if run.frames is not None and run.rows != run.frames:
            raise JobError(f"{run.frames} frames were read but {run.rows} rows written to {table.uri}")
        lock.check()
        earlier = [other for other in table.runs() if other["run_id"] != run.run_id]
        if run.rows or run.frames is None or (run.already_done and unfinished(earlier)):
            run.finished = _now()
        # Else its record is removed: it says nothing, and would tie a table without rows to these settings.
    if not (run.finished or run.already_done):
        raise UsageError(_no_frames(run))
    return Summary(run, table.uri, seconds, *first, quantiles, totals)


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
    lock: claim.Lock,
    reporter: progress.Reporter | None,
) -> tuple[float, tuple[float, int]]:
    """Run the graph over what has no row yet, and note what it met; seconds that it took, and what
    `Census.first_through` says."""
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
    # On the driver's own node: what the job cannot do without should not hang on another one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    census = Census.options(**options).remote(  # type: ignore[attr-defined]
        len(shards), len(groups), rest.already_done
    )
    birth = ray.get(census.incarnation.remote())
    keeper = finished_shards.Keeper(
        table,
        run.run_id,
        lambda count: ray.get(census.finished_since.remote(count), timeout=progress.EVERY_S),
        rest.known,
    )
    started = time.monotonic()
    lock.may_write = True
    try:
        with lock.notify_on_loss(census.stop.remote), keeper.running():
            run_graph(config, models, groups, rest.done, table, run, census, reporter)
    except BaseException as error:
        if len(rest.again):
            # What went wrong is the news. What is not put right now, the next run finds.
            with contextlib.suppress(Exception):
                lock.check()
                repair.drop_replaced(table, run, rest.again)
        if not isinstance(error, Exception):
            raise
        raise JobError(lock.lost or _stopped(error, census) or _reason(error)) from error
    lock.may_write = False
    seconds = time.monotonic() - started
    lock.check()
    repair.drop_stragglers(table, run, rest.files)
    repair.drop_replaced(table, run, rest.again)
    keeper.replace(rest.shard_files)
    outage = ray.get(census.outage_at_the_end.remote())
    if outage:
        raise JobError(outage)
    if ray.get(census.incarnation.remote()) == birth:
        run.frames, run.already_done = ray.get(census.totals.remote(config.limit))
    passed_over, met = ray.get(census.findings.remote())
    run.notes = [mask(note) for note in (*run.notes, *met)]
    run.passed_over = dict(Counter(run.passed_over) + Counter(passed_over))
    return seconds, ray.get(census.first_through.remote())


def run_graph(
    config: Config,
    models: ChosenModels,
    groups: list[list[Shard]],
    done: np.ndarray,
    table: Table,
    run: Run,
    census: Any,
    reporter: progress.Reporter | None,
) -> None:
    """The whole job. Each step keeps the number of rows, but for the first, which makes them: one task for
    each of `groups`."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False  # see `progress.watched`
    context.custom_execution_callback_classes = [watchdog.stopping(run.run_id)]
    # Rows of --limit must be the same ones every time: the first.
    context.execution_options.preserve_order = config.limit is not None
    done_ref = ray.put(done)
    # The first N frames are the same ones on every run only if those with a row are read and counted too.
    skipped = done_ref if config.limit is None else ray.put(done[:0])
    shown = progress.watched(run.run_id, resources.requests(config), census, len(groups), reporter)
    with DataContext.current(context), shown, warnings.catch_warnings():
        # Ray means to drop `max_retries` from these calls and names nothing in its place.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        # Encoded frames, or errors. Reading waits for the network more than it computes.
        frames = ray.data.read_datasource(
            FrameSource(groups, read_settings(config), skipped, census),
            override_num_blocks=len(groups),
            num_cpus=config.read.num_cpus,
            ray_remote_args={"max_retries": max(map(datasource.most_starts, groups))},
        )
        if config.limit is not None:
            frames = frames.limit(config.limit).map_batches(
                drop_done,
                fn_args=(done_ref, census),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=config.read.num_cpus,
                max_retries=MAX_RETRIES,
            )
        (
            frames
            # Decode, detect, mask, align: from here on only crops cross the object store.
            .map_batches(**_finding_faces(config, models, census))
            # SER-FIQ: one forward pass of the recogniser. Drops the pixels of faces below the threshold.
            .map_batches(
                FiqStage,
                fn_constructor_args=(config, models, census),
                **pool_options(config.serfiq),
            )
            # DB-CNN inside the mask: most of the arithmetic of the job. No pixels after it.
            .map_batches(
                LastStage,
                fn_constructor_args=(config, models, census),
                **pool_options(config.dbcnn),
            )
            # Rows are light now: gathered, or the table would be of tiny files. By a batch size and not by
            # `repartition`, whose tasks ask for a whole CPU each: where the stages leave none, nothing would
            # be written before they are through.
            .map_batches(
                result_rows,
                fn_args=(schema(config.embeddings), run.run_id, census),
                batch_size=config.rows_per_file,
                batch_format="pyarrow",
                num_cpus=config.read.num_cpus,
                max_retries=MAX_RETRIES,
            )
            .write_parquet(
                table.path,
                filesystem=table.arrow_files,
                partition_cols=["status"],
                filename_provider=RunFiles(run.run_id),
                schema=schema_with(run.footer()),
                compression=COMPRESSION,
                ray_remote_args={"num_cpus": config.read.num_cpus, "max_retries": MAX_RETRIES},
            )
        )  # fmt: skip


def _finding_faces(config: Config, models: ChosenModels, census: Any) -> dict[str, Any]:
    """FindFace as tasks, since any CPU of the cluster will do and the models load in milliseconds; on GPUs,
    where Ray ends a task's process with the task, as a pool of actors."""
    if config.find_face.num_gpus:
        constructor = {"fn_constructor_args": (census, config, models)}
        return {"fn": FindFaceActor, **constructor, **pool_options(config.find_face)}
    return {
        "fn": find_face,
        "fn_args": (census, config, models),
        "batch_size": config.find_face.batch_size,
        "batch_format": "pyarrow",
        "num_cpus": config.find_face.num_cpus,
        "max_retries": most_starts(config.find_face.batch_size),
    }


class FiqStage(ScoreFiq):
    """ScoreFiq whose warnings go on record, and which stops the job when nearly no face has features."""

    def __init__(self, config: Config, models: ChosenModels, census: Any):
        set_up(config.serfiq.threads)
        self._census = census
        with telling(census):
            super().__init__(config, models)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _scored(super().__call__, batch, self._census, NO_FEATURES)

    def warn(self, note: str) -> None:
        super().warn(note)
        self._census.note.remote(note)


class LastStage(ScoreQuality):
    """ScoreQuality that tells the census how many rows are through, and stops the job likewise."""

    def __init__(self, config: Config, models: ChosenModels, census: Any):
        set_up(config.dbcnn.threads)
        self._census = census
        with telling(census):
            super().__init__(config, models)

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = _scored(super().__call__, batch, self._census, NO_QUALITY)
        self._census.through.remote(len(batch))
        return batch


def _scored(stage: Callable[[pa.Table], pa.Table], batch: pa.Table, census: Any, error: str) -> pa.Table:
    """What a stage makes of a batch. The census is told what the stage prints, and how many faces have the
    `error` now, since a model had no score for them; OutageError if these are nearly all of the job's."""
    faces = batch["status"].null_count
    with telling(census):
        batch = stage(batch)
    if not faces:
        return batch
    without = pc.sum(pc.equal(batch["error"], error)).as_py() or 0
    told = census.scored.remote(faces, without, error)
    if without:  # good batches need not wait for the answer
        outage = ray.get(told)
        if outage:
            raise OutageError(outage)
    return batch


def _stopped(error: Exception, census: Any) -> str | None:
    """Why the job was told to stop, if it was: by this process or by the census, which may be what died."""
    if isinstance(error, OutageError):
        return str(error)
    with contextlib.suppress(ray.exceptions.RayError):
        return ray.get(census.outage.remote(), timeout=progress.EVERY_S)
    return None


_OF_A_DEATH = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
)


def _reason(error: BaseException) -> str:
    """Why the graph failed. Ray's account is a stack trace as text; the last line of it that is an
    error, and neither advice nor Ray's own wrapping, is the error as it was raised in a worker."""
    text = str(error)
    raised = re.findall(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", text, re.MULTILINE)
    inner = [
        line for line in raised if not line.startswith("ray.exceptions.") and "UserCodeException" not in line
    ]
    if not inner and isinstance(error, _OF_A_DEATH):
        last = workers.last()
        died = f", the last one {last.text}" if last else ""
        return f"a stage of the job failed: its worker processes died again and again{died}"
    told = (inner or raised or [text or type(error).__name__])[-1]
    return f"a stage of the job failed: {told}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

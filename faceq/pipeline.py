"""The Ray Data graph: from shards to the result table."""

import contextlib
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import faceq
from faceq import claim, progress, recover, source, watchdog, workers
from faceq.census import Census, OutageError
from faceq.cluster import MAX_RETRIES, pool_options, ray_for
from faceq.config import Config
from faceq.errors import JobError, UsageError
from faceq.listing import Shard, ending_of, endings_text, group, list_shards, outside
from faceq.runs import COMPRESSION, Run, Table, new_run_id
from faceq.source import FrameSource
from faceq.stages import ScoreFiq, ScoreQuality, check_own_models
from faceq.table import finished, schema, schema_with
from faceq.tasks import FindFaceActor, RunFiles, drop_done, find_face, most_starts
from faceq.telling import telling

BLOCK_BYTES = 8 << 20
"""Most bytes of a block between two stages: some 30 faces' crops, or 200 small JPEGs. Ray's default of
128 MiB would make blocks of thousands of frames, and the first one wait for all of them."""


INPUTS_SHOWN = 3


@dataclass(frozen=True)
class Summary:
    """What a run did.

    seconds: from the start of the graph to its end. first_rows, first_seconds: rows of the first batch that
    was through all stages, and when it was: mostly the start of workers and the loading of models.
    """

    run: Run
    table: str
    seconds: float
    first_seconds: float
    first_rows: int
    quantiles: dict[str, list[float]]

    @property
    def frames_per_second(self) -> float:
        """Start-up apart, if there was more than one batch.

        Frames that were half done when the first ones were through help a short run: by a tenth where there
        are 500 in all.
        """
        rows = self.run.rows or 0
        if rows > self.first_rows > 0:
            return (rows - self.first_rows) / (self.seconds - self.first_seconds)
        return rows / self.seconds


def score(config: Config, overwrite: bool = False, retry_unreadable: bool = False) -> Summary:
    """Score the input's frames and write the rows into the table, by Ray Data.

    Frames that have a row already are not read again. Runs on the Ray that this process is connected to;
    else on the cluster that RAY_ADDRESS names, or on a Ray of its own.

    Args:
        config: the job.
        overwrite: remove the table that is there first.
        retry_unreadable: try frames of the input again that have a row as unreadable.

    Raises:
        UsageError: an input or output or model that cannot be used as given, terms that are not accepted, or
            another job at work on the table.
        JobError: the job was stopped, because nearly nothing could be read or a part of it failed.
    """
    if config.out is None:
        raise UsageError("no output given: name the table's folder or s3:// prefix with --out")
    if retry_unreadable and config.limit is not None:
        raise UsageError("--retry-unreadable tries all unreadable frames of the input: leave --limit out")
    accepted = config.accept_terms()
    check_own_models(config)
    record = config.record()
    table = Table(config.out, config.s3)
    # Other machines need not ask again.
    config = config.model_copy(update={"accept_licence": bool(accepted)})
    table.check(None if overwrite else record)
    others: set[str] = set()
    shards = list_shards(config.input, config.s3, config.manifest, config.any_name, others)
    shards = outside(shards, table.uri)
    if not shards:
        raise UsageError(f"{table.uri}: the input holds nothing but the table itself")
    started = _now()
    with contextlib.ExitStack() as held:
        # As they are on that Ray: which stages run on its GPUs goes on record, too.
        config = held.enter_context(ray_for(config))
        run = Run(
            run_id=new_run_id(),
            version=faceq.__version__,
            input=[*config.input, *config.manifest],
            record=record,
            config=config.model_dump(),
            started=started,
            owner=claim.owner(),
            accepted=accepted,
            passed_over=dict(
                Counter(map(ending_of, (o for o in others if not o.startswith(f"{table.uri}/"))))
            ),
        )
        held.enter_context(claim.held(table, run))
        if overwrite:
            removed = table.remove_others(run)
            print(f"faceq: --overwrite: removed the {removed:,} files of {table.uri}", file=sys.stderr)
        if retry_unreadable:
            again = recover.forget_unreadable(table, {shard.source for shard in shards})
            print(f"faceq: --retry-unreadable: {again:,} frames are tried again", file=sys.stderr)
        seconds, first = _score(config, shards, table, run)
        run.counts, quantiles = table.counts_and_quantiles(run.run_id)
        run.rows = sum(run.counts.values())
        # None: the process that counted has died, and another one goes on from nought.
        if run.frames is not None and run.rows != run.frames:
            raise JobError(f"{run.frames} frames were read but {run.rows} rows written to {table.uri}")
        claim.check_still_held(table, run)
        if run.rows or run.already_done or run.frames is None:
            run.finished = _now()  # else its record is removed, so that other settings can be used here
    if not run.finished:
        raise UsageError(_no_frames(run))
    return Summary(run, table.uri, seconds, *first, quantiles)


def _no_frames(run: Run) -> str:
    """What an input holds that has no frame."""
    some = ", ".join(run.input[:INPUTS_SHOWN]) + (", …" if len(run.input) > INPUTS_SHOWN else "")
    counted = f": passed over {endings_text(run.passed_over)}" if run.passed_over else ""
    return f"{some}: no frames here{counted}"


def _score(config: Config, shards: list[Shard], table: Table, run: Run) -> tuple[float, tuple[float, int]]:
    """Run the graph over what has no row yet, and note what it met; seconds that it took, and what
    `Census.first_through` says."""
    done, known = recover.prepare(table, {shard.source for shard in shards})
    groups = group(recover.with_known_videos(table, shards))
    # On the driver's own node: what the job cannot do without should not hang on another one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    census = Census.options(**options).remote(len(shards), len(groups))  # type: ignore[attr-defined]
    birth = ray.get(census.birth.remote())
    started = time.monotonic()
    try:
        run_graph(config, groups, done, table, run, census)
    except OutageError as error:  # the driver's own
        raise JobError(str(error)) from error
    except Exception as error:
        outage = None
        with contextlib.suppress(ray.exceptions.RayError):  # the census may be what died
            outage = ray.get(census.outage.remote(), timeout=progress.EVERY_S)
        raise JobError(outage or _reason(error)) from error
    seconds = time.monotonic() - started
    claim.check_still_held(table, run)
    recover.drop_stragglers(table, run, known)
    outage = ray.get(census.outage_at_the_end.remote())
    if outage:
        raise JobError(outage)
    if ray.get(census.birth.remote()) == birth:
        run.frames, run.already_done = ray.get(census.totals.remote(config.limit))
    passed_over, run.notes = ray.get(census.findings.remote())
    run.passed_over = dict(Counter(run.passed_over) + Counter(passed_over))
    return seconds, ray.get(census.first_through.remote())


def run_graph(
    config: Config, groups: list[list[Shard]], done: np.ndarray, table: Table, run: Run, census: Any
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
    shown = progress.watched(run.run_id, config, census, len(groups))
    with DataContext.current(context), shown, warnings.catch_warnings():
        # Ray means to drop `max_retries` from these calls and names nothing in its place.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        # Encoded frames, or errors. Reading waits for the network more than it computes.
        frames = ray.data.read_datasource(
            FrameSource(groups, config, skipped, census),
            override_num_blocks=len(groups),
            num_cpus=config.read.num_cpus,
            ray_remote_args={"max_retries": max(map(source.most_starts, groups))},
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
            .map_batches(**_finding_faces(config, census))
            # SER-FIQ: one forward pass of the recogniser. Drops the pixels of faces below the threshold.
            .map_batches(
                FiqStage,
                fn_constructor_args=(config, census),
                **pool_options(config.serfiq),
            )
            # DB-CNN inside the mask: most of the arithmetic of the job. No pixels after it.
            .map_batches(LastStage, fn_constructor_args=(config, census), **pool_options(config.dbcnn))
            # Rows are light now: gathered, or the table would be of tiny files. By a batch size and not by
            # `repartition`, whose tasks ask for a whole CPU each: where the stages leave none, nothing would
            # be written before they are through.
            .map_batches(
                finished,
                fn_args=(schema(config.embeddings), run.run_id),
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


def _finding_faces(config: Config, census: Any) -> dict[str, Any]:
    """FindFace as tasks, since any CPU of the cluster will do and the models load in milliseconds; on GPUs,
    where Ray ends a task's process with the task, as a pool of actors."""
    if config.find_face.num_gpus:
        constructor = {"fn_constructor_args": (census, config)}
        return {"fn": FindFaceActor, **constructor, **pool_options(config.find_face)}
    return {
        "fn": find_face,
        "fn_args": (census, config),
        "batch_size": config.find_face.batch_size,
        "batch_format": "pyarrow",
        "num_cpus": config.find_face.num_cpus,
        "max_retries": most_starts(config),
    }


class FiqStage(ScoreFiq):
    """ScoreFiq whose warnings go on record, too."""

    def __init__(self, config: Config, census: Any):
        self._census = census
        with telling(census):
            super().__init__(config)

    def __call__(self, batch: pa.Table) -> pa.Table:
        with telling(self._census):
            return super().__call__(batch)

    def warn(self, note: str) -> None:
        super().warn(note)
        self._census.note.remote(note)


class LastStage(ScoreQuality):
    """ScoreQuality that tells the census how many rows are through."""

    def __init__(self, config: Config, census: Any):
        self._census = census
        with telling(census):
            super().__init__(config)

    def __call__(self, batch: pa.Table) -> pa.Table:
        with telling(self._census):
            batch = super().__call__(batch)
        self._census.through.remote(len(batch))
        return batch


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

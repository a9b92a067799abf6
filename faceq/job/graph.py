"""The Ray Data graph: from shards to rows in the table's files."""

import warnings
from typing import Any

import numpy as np
import ray
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning

from faceq.config import Config
from faceq.job import datasource, progress, watchdog
from faceq.job.actors import FiqStage, QualityStage
from faceq.job.cluster import MAX_RETRIES, pool_options
from faceq.job.datasource import FrameSource
from faceq.job.tasks import FindFaceActor, RunFiles, drop_done, find_face, most_starts, result_rows
from faceq.sources.listing import Shard
from faceq.sources.read import ReadSettings
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.placement import requests
from faceq.table.runs import Run
from faceq.table.schema import schema, schema_with
from faceq.table.store import COMPRESSION, Table

BLOCK_BYTES = 8 << 20
"""Most bytes of a block between two stages: some 30 faces' crops, or 200 small JPEGs. Ray's default of
128 MiB would make blocks of thousands of frames, and the first one wait for all of them."""


def read_settings(config: Config) -> ReadSettings:
    """How a job reads its input."""
    return ReadSettings(config.s3, config.video, config.limits, config.any_name)


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
    shown = progress.watched(run.run_id, requests(config), census, len(groups), reporter)
    with DataContext.current(_context(config, run)), shown, warnings.catch_warnings():
        # Ray means to drop `max_retries` from these calls and names nothing in its place.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        # Encoded frames, or errors.
        frames = _read(config, groups, done, census)
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
                QualityStage,
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


def _context(config: Config, run: Run) -> DataContext:
    """Ray Data's settings for the graph."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False  # see `progress.watched`
    context.raise_original_map_exception = True  # see `failures.explain`
    context.custom_execution_callback_classes = [watchdog.stopping(run.run_id)]
    # Rows of --limit must be the same ones every time: the first.
    context.execution_options.preserve_order = config.limit is not None
    return context


def _read(config: Config, groups: list[list[Shard]], done: np.ndarray, census: Any) -> Any:
    """The frames without a row, as a Dataset. Its tasks wait for the network more than they compute."""
    done_ref = ray.put(done)
    # The first N frames are the same ones on every run only if those with a row are read and counted too.
    skipped = done_ref if config.limit is None else ray.put(done[:0])
    frames = ray.data.read_datasource(
        FrameSource(groups, read_settings(config), skipped, census),
        override_num_blocks=len(groups),
        num_cpus=config.read.num_cpus,
        ray_remote_args={"max_retries": max(map(datasource.most_starts, groups))},
    )
    if config.limit is None:
        return frames
    return frames.limit(config.limit).map_batches(
        drop_done,
        fn_args=(done_ref, census),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=config.read.num_cpus,
        max_retries=MAX_RETRIES,
    )


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

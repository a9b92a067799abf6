"""The Ray Data graph of a job: from shards to rows in the table's files."""

import logging
import warnings
from typing import Any

import numpy as np
import ray
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning

from faceq.config import Config
from faceq.job import datasource, progress, stopping
from faceq.job.actors import AllStages, FiqStage, QualityStage
from faceq.job.cluster import MAX_RETRIES, TASKS_IN_FLIGHT_HERE, pool_options
from faceq.job.datasource import FrameSource
from faceq.job.result_files import ResultFiles
from faceq.job.resume import read_settings
from faceq.job.tasks import FindFaceActor, drop_done, find_face, most_starts, result_rows
from faceq.sources.listing import Shard
from faceq.stage_resources import Stage
from faceq.stages.chosen_models import ChosenModels
from faceq.stages.placement import requests, with_bounded_batches
from faceq.table.runs import Run
from faceq.table.schema import schema, schema_with
from faceq.table.store import Table

log = logging.getLogger(__name__)

BLOCK_BYTES = 8 << 20
"""Maximum size of a block between two stages: about 30 crops of faces, or 200 small JPEGs. With Ray's default
of 128 MiB a block would hold thousands of frames, and nothing would go on before the first one is full."""


def run_graph(
    config: Config,
    models: ChosenModels,
    groups: list[list[Shard]],
    done: np.ndarray,
    table: Table,
    run: Run,
    census: Any,
    reporter: progress.Reporter | None,
    shared: Stage | None,
) -> None:
    """Run the whole job, with one read task for each of `groups`. Every step after reading keeps the number
    of rows.

    `shared`: the pool whose processes run all stages; None: each stage has processes of its own.
    """
    config = with_bounded_batches(config)
    limited = config.limit is not None
    shown = progress.watched(run.run_id, requests(config, shared), census, len(groups), reporter, limited)
    log.info("loading models and reading frames")
    with DataContext.current(_context(config, run)), shown, warnings.catch_warnings():
        # Ray deprecates `max_retries` in these calls and offers no replacement.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        # A small input has fewer blocks than there are actors.
        warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
        # Encoded frames, or errors.
        frames = _read(config, groups, done, census)
        scored = (
            _in_shared_processes(frames, config, models, census, shared)
            if shared
            else _in_own_processes(frames, config, models, census)
        )
        (
            scored
            # Rows are small now: they are gathered, or the table would consist of tiny files. By batch size,
            # not by `repartition`: its tasks request a whole CPU each, and if the stages leave none free,
            # nothing would be written before the stages have finished.
            .map_batches(
                result_rows,
                fn_args=(schema(config.embeddings, config.all_faces), run.run_id, census),
                batch_size=config.rows_per_file,
                batch_format="pyarrow",
                num_cpus=config.read.num_cpus,
                max_retries=MAX_RETRIES,
            )
            .write_datasink(
                ResultFiles(table, schema_with(run.footer()), run.run_id, census),
                ray_remote_args={"num_cpus": config.read.num_cpus, "max_retries": MAX_RETRIES},
            )
        )  # fmt: skip


def _in_shared_processes(frames: Any, config: Config, models: ChosenModels, census: Any, pool: Stage) -> Any:
    """Rows without pixels, from processes that run all stages one after the other."""
    batch = config.find_face.batch_size
    options = {
        **pool_options(pool, TASKS_IN_FLIGHT_HERE),
        "batch_size": batch,
        # As for tasks that find faces: each frame of a batch may end some processes.
        "max_task_retries": most_starts(batch),
    }
    return frames.map_batches(AllStages, fn_constructor_args=(config, models, census), **options)


def _in_own_processes(frames: Any, config: Config, models: ChosenModels, census: Any) -> Any:
    """Rows without pixels, from stages that have processes of their own and can run on different machines."""
    return (
        frames
        # Decode, detect, mask, align. After this step only crops cross the object store.
        .map_batches(**_finding_faces(config, models, census))
        # SER-FIQ: one forward pass of the recogniser. Drops the pixels of faces below the threshold.
        .map_batches(
            FiqStage, fn_constructor_args=(config, models, census), **pool_options(config.serfiq)
        )
        # DB-CNN inside the mask: most of the arithmetic of the job. Drops all pixels.
        .map_batches(
            QualityStage, fn_constructor_args=(config, models, census), **pool_options(config.dbcnn)
        )
    )  # fmt: skip


def _context(config: Config, run: Run) -> DataContext:
    """Ray Data's settings for the graph."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False  # see `progress.watched`
    context.raise_original_map_exception = True  # see `failures.explain`
    context.custom_execution_callback_classes = [stopping.callback(run.run_id)]
    # --limit must take the same rows every time: the first ones.
    context.execution_options.preserve_order = config.limit is not None
    return context


def _read(config: Config, groups: list[list[Shard]], done: np.ndarray, census: Any) -> Any:
    """The frames without a row, as a Dataset. Its tasks wait for the network more than they compute."""
    done_ref = ray.put(done)
    # The first N frames are the same on every run only if frames that have a row are read and counted, too.
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
    """FindFace as tasks on CPUs: they can run on any CPU of the cluster, and the models load in milliseconds.
    As a pool of actors on GPUs: there Ray ends a task's process with the task."""
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

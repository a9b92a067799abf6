"""How fast the job is: beside the bare loop over the same frames, and beside CAFI as it was published.

    python -m jobs.benchmark [INPUT…] [--frames N] [--cafi-frames 6] [--config job.yaml]

Three measurements, one after the other, each in a process of its own:

- job: `faceq score`, on this machine or on the cluster that RAY_ADDRESS names; Ray Data's account of each
  stage follows the table, and the mean load of the cluster's GPUs, if there are any;
- bare loop: the stages of the job over the same frames (1,500 of them at most) in one process without Ray, on
  the devices that the job ran on, with as many threads as the process has cores;
- CAFI: for each face 100 passes of the whole recogniser, then the frame with all but the face blacked out,
  384x384, through DB-CNN with VGG-16, one picture at a time. The network's speed does not hang on its
  weights: they are drawn at random.

On a cluster the last two run on one machine of it, with a card if the job's models do. Without INPUT, on the
command line or in the configuration, the frames are 384x384 JPEGs of faces out of photos that installed
packages ship, each moved, turned over and lit a little differently; on a cluster INPUT and `out` must be
where all its machines reach them. All faces are scored to the end. Rates leave out the start; memory is the
sum over the process and those below it (on a cluster: the driver's alone), shared pages counted once.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa
import ray
import rich.console
import rich.table
import torch

from faceq import (
    cluster,
    config,
    detect,
    device,
    geometry,
    landmarks,
    mask,
    pipeline,
    recognise,
    serfiq,
    storage,
)
from faceq.dbcnn_vgg import DBCNN, published_tensor
from faceq.decode import UnreadableError, decode
from faceq.errors import JobError, UsageError
from faceq.frames import in_batches, list_shards, read_shards, to_table
from faceq.quality import to_device
from faceq.scoring import finished, new_run_id, stages_of
from faceq.table import schema
from jobs import demo
from jobs.gpu_load import GpuLoad

FRAMES = 1500
CAFI_PASSES = 100
WARM_UP_FRAMES = 32


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("input", nargs="*", help="pictures, shards, folders (default: made of photos in installed packages)")
    add("--frames", type=int, metavar="N", help=f"of the input, the first N; made up: {FRAMES:,}")
    add("--cafi-frames", type=int, default=6, metavar="N", help="of these, for CAFI: it takes seconds each")
    add("--config", metavar="job.yaml", help="input, resources; the table goes beside its `out`, for a while")
    add("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    try:
        figures = measure(options)
    except (UsageError, JobError) as error:
        print(f"faceq: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    rich.console.Console().print(table_of(figures))
    for stage, seconds in figures["bare loop"]["cpu_ms"].items():
        print(f"bare loop, CPU time of {stage:<12} {seconds:7.2f} ms a frame")
    if figures["job"]["gpus"]:
        print(f"GPUs of the cluster, mean load: {figures['job']['gpus']}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of each measurement, by its name."""
    settings = config.load(options.config, {"input": options.input or None, "limit": options.frames})
    settings = settings.model_copy(update={"fiq_threshold": 0.0})
    made_up = not settings.input and not settings.manifest
    if os.environ.get("RAY_ADDRESS") and (made_up or settings.out is None):
        raise UsageError(
            "benchmark: on a cluster name INPUT, and `out` in the configuration, in places that all its "
            "machines reach"
        )
    with tempfile.TemporaryDirectory(prefix="faceq-benchmark-") as folder:
        if made_up:
            # No limit: it would keep the frames' order, which costs a job something.
            frames = write_frames(Path(folder) / "frames", options.frames or FRAMES)
            settings = settings.model_copy(update={"input": (frames,), "limit": None})
        # Beside the table that the configuration names, never in it.
        out = f"{settings.out or f'{folder}/table'}-benchmark-{new_run_id()}"
        whole = in_own_process(job, settings.model_copy(update={"out": out}))
        storage.filesystem(out, settings.s3).rm(storage.path_of(out), recursive=True)
        # With the devices that the job found.
        settings = whole.pop("settings")
        few = settings.model_copy(update={"limit": min(settings.limit or FRAMES, FRAMES)})
        fewer = settings.model_copy(update={"limit": options.cafi_frames})
        return {
            "bare loop": in_own_process(functools.partial(on_one_machine, bare_loop), few),
            "job": whole,
            "CAFI": in_own_process(functools.partial(on_one_machine, cafi), fewer),
        }


def table_of(figures: dict[str, dict[str, Any]]) -> rich.table.Table:
    """One line for each measurement."""
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("", "frames", "start-up, s", "frames/s", "of the bare loop", "peak memory, MB"):
        table.add_column(title, justify="right" if title else "left")
    bare = figures["bare loop"]["rate"]
    for name, found in figures.items():
        table.add_row(
            name,
            f"{found['frames']:,}",
            f"{found['start_up']:.1f}",
            f"{found['rate']:.2f}",
            f"{found['rate'] / bare:.3f}",
            f"{found['peak_mb']:,.0f}",
        )
    return table


# --- the three measurements ----------------------------------------------------------------------


def on_one_machine(
    measure: Callable[[config.Config], dict[str, Any]], settings: config.Config
) -> dict[str, Any]:
    """A measurement on this machine; on a cluster, on one of its machines that has what its models run on."""
    if not os.environ.get("RAY_ADDRESS"):
        return measure(settings)
    ray.init()
    on_card = "cuda" in (settings.find_face.runs_on, settings.serfiq.runs_on, settings.dbcnn.runs_on)
    return ray.get(ray.remote(num_gpus=int(on_card))(measure).remote(settings))


def bare_loop(settings: config.Config) -> dict[str, Any]:
    """The job's stages, one after the other, a batch of 32 frames at a time."""
    cores = device.usable_cpus()
    whole = {
        name: getattr(settings, name).model_copy(update={"num_cpus": cores})
        for name in ("find_face", "serfiq", "dbcnn")
    }
    chosen = settings.model_copy(update=whole)
    started = time.perf_counter()
    stages = stages_of(chosen)
    tables = list(tables_of(settings))
    warm_up = tables[0].slice(0, WARM_UP_FRAMES)
    for stage in stages:
        warm_up = stage(warm_up)
    start_up = time.perf_counter() - started
    cpu = dict.fromkeys((type(stage).__name__ for stage in stages), 0.0)
    columns = schema(settings.embeddings)
    started, rows = time.perf_counter(), 0
    for table in tables:
        for stage in stages:
            before = time.process_time()
            table = stage(table)  # noqa: PLW2901 - a frame table grows from stage to stage
            cpu[type(stage).__name__] += time.process_time() - before
        rows += len(finished(table, columns, "benchmark"))
    seconds = time.perf_counter() - started
    cpu_ms = {name: 1000 * value / rows for name, value in cpu.items()}
    return {"frames": rows, "start_up": start_up, "rate": rows / seconds, "cpu_ms": cpu_ms}


def job(settings: config.Config) -> dict[str, Any]:
    """The job as `faceq score` runs it."""
    started = time.perf_counter()
    with cluster.ray_for(settings) as chosen:
        ray_up = time.perf_counter() - started
        # Ray Data's account of each stage: wall and CPU time, rows, block sizes.
        ray.data.DataContext.get_current().enable_auto_log_stats = True
        with GpuLoad() as load:
            done = pipeline.score(chosen)
        gpus = load.mean()
    return {
        "frames": done.run.rows,
        "start_up": ray_up + done.first_seconds,
        "rate": done.frames_per_second,
        "gpus": gpus,
        "settings": chosen,
    }


def cafi(settings: config.Config) -> dict[str, Any]:
    """CAFI's two networks as published, on the detector, landmarks and recogniser of the job's preset."""
    cores, chosen = device.usable_cpus(), settings.chosen
    torch.set_num_threads(cores)
    cv2.setNumThreads(cores)
    started = time.perf_counter()
    finding, place = settings.find_face.runs_on, settings.dbcnn.runs_on
    detector = detect.load(settings.fetch(chosen.detector), settings.det_threshold, finding, cores)
    marks = landmarks.load(settings.fetch(chosen.landmarks), finding, cores)
    known = settings.recogniser()
    path = settings.fetch(chosen.recogniser)
    backbone = recognise.Backbone(path, known.dropout, known.mean, known.std, place, cores)
    passes = serfiq.MonteCarlo(backbone.head, CAFI_PASSES, place)
    network = DBCNN().eval().to(place)
    images = [image for table in tables_of(settings) for image in table["image"].to_pylist() if image]
    start_up = time.perf_counter() - started
    started = time.perf_counter()
    for image in images:
        picture = decode_or_none(image, settings.max_pixels)
        faces = detector(picture) if picture is not None else []
        if picture is None or not faces:
            continue
        face = faces[0]
        matrix = geometry.crop_matrix(face.box, face.landmarks)
        dense = marks(picture, face, geometry.crop(picture, matrix), matrix)
        outline = dense.in_frame(dense.outline(chosen.outline))
        aligned = geometry.align(picture, face.landmarks)
        with torch.inference_mode():
            # The released code puts 100 copies of the face through the whole network.
            features = backbone.on_device(to_device(np.repeat(aligned[None], CAFI_PASSES, axis=0), place))
            passes(features[:1], [serfiq.seed_of(aligned)])
            network(published_tensor(mask.blacked_out(picture, outline)).to(place)).cpu()
    seconds = time.perf_counter() - started
    return {"frames": len(images), "start_up": start_up, "rate": len(images) / seconds}


def decode_or_none(image: bytes, max_pixels: int) -> np.ndarray | None:
    """RGB (H, W, 3), None for what is no picture."""
    try:
        return decode(image, max_pixels)
    except UnreadableError:
        return None


# --- frames and processes ------------------------------------------------------------------------


def tables_of(settings: config.Config) -> Iterator[pa.Table]:
    """The first `limit` frames, as the stages take them."""
    left = settings.limit or sys.maxsize
    frames = read_shards(list_shards(settings.input, settings.s3, settings.manifest), settings.s3)
    for batch in in_batches(frames):
        table = to_table(batch[:left])
        left -= len(table)
        if len(table):
            yield table
        if not left:
            return


def write_frames(folder: Path, count: int) -> str:
    """`count` frames of 384x384 in tar shards, made of the demo's eight faces; the folder's path."""
    faces = list(demo.source_faces().values())
    chance = np.random.default_rng(0)

    def members() -> Iterator[tuple[str, bytes]]:
        for index in range(count):
            face = faces[index % len(faces)]
            moved = np.roll(face, chance.integers(-24, 25, 2), (0, 1))
            turned = moved[:, ::-1] if chance.random() < 0.5 else moved
            lit = np.clip(turned * chance.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
            yield f"{index:06}.jpg", demo._jpeg(lit)

    demo.write_shards(folder, members())
    return str(folder)


def in_own_process(
    measure: Callable[[config.Config], dict[str, Any]], settings: config.Config
) -> dict[str, Any]:
    """What a measurement found, and the peak memory of its process and all below it."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pid = pool.submit(os.getpid).result()
        ended = threading.Event()
        peak: list[float] = [0.0]
        watcher = threading.Thread(target=_watch_memory, args=(pid, ended, peak))
        watcher.start()
        try:
            found = pool.submit(measure, settings).result()
        finally:
            ended.set()
            watcher.join()
    return {**found, "peak_mb": peak[0] / 1e6}


def _watch_memory(pid: int, ended: threading.Event, peak: list[float]) -> None:
    while not ended.wait(1):
        peak[0] = max(peak[0], _memory(pid))


def _memory(pid: int) -> float:
    """Bytes that a process and those below it hold; of pages that several share, each counts its part."""
    total = 0.0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has ended meanwhile
    return total


if __name__ == "__main__":
    sys.exit(main())

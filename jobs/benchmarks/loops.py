"""The baselines of the benchmark: the stages of the job in one process without Ray, and CAFI as published."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from faceq import config
from faceq.faces import detect, finder, geometry, landmarks, region
from faceq.fiq import recogniser, serfiq
from faceq.iqa.dbcnn_vgg import DBCNN, published_tensor
from faceq.iqa.scorer import to_device
from faceq.runtime import device
from faceq.sources import read_shards
from faceq.sources.decode.image import UnreadableError, decode
from faceq.sources.frame import in_batches, to_table
from faceq.sources.listing import list_shards
from faceq.stages.chosen_models import choose
from faceq.stages.scorer import AT_ONCE, stages_of
from faceq.table.schema import schema, to_result_rows

CAFI_PASSES = 100
WARM_UP_FRAMES = 32


def bare(settings: config.Config) -> dict[str, Any]:
    """The stages of the job, one after the other, on a few hundred frames at a time."""
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
        rows += len(to_result_rows(table, columns, "benchmark"))
    seconds = time.perf_counter() - started
    cpu_ms = {name: 1000 * value / rows for name, value in cpu.items()}
    return {"frames": rows, "start_up": start_up, "rate": rows / seconds, "cpu_ms": cpu_ms}


def cafi(settings: config.Config) -> dict[str, Any]:
    """CAFI's two networks as published, with the detector, landmarks and recogniser of the job's preset."""
    cores, models = device.usable_cpus(), choose(settings)
    torch.set_num_threads(cores)
    cv2.setNumThreads(cores)
    started = time.perf_counter()
    finding, place = settings.find_face.runs_on, settings.dbcnn.runs_on
    detector = detect.load(models.path("detector"), settings.det_threshold, finding, cores)
    marks = landmarks.load(models.path("landmarks"), finding, cores)
    known = models.recogniser
    path = models.path("recogniser")
    backbone = recogniser.Backbone(path, known.dropout, known.mean, known.std, place, cores)
    passes = serfiq.MonteCarlo(backbone.head, CAFI_PASSES, place)
    network = DBCNN().eval().to(place)
    images = [image for table in tables_of(settings) for image in table["image"].to_pylist() if image]
    start_up = time.perf_counter() - started
    started = time.perf_counter()
    for image in images:
        picture = decode_or_none(image, settings.max_pixels)
        faces = (
            finder.detect_in_view(detector, finder.View.of(picture, 1.0), 0) if picture is not None else []
        )
        if picture is None or not faces:
            continue
        face = max(faces, key=lambda each: each.area)
        outline = marks(picture, face).outline(models.preset.outline)
        aligned = geometry.align(picture, face.landmarks)
        with torch.inference_mode():
            # The released code runs the whole network on 100 copies of the face.
            features = backbone.on_device(to_device(np.repeat(aligned[None], CAFI_PASSES, axis=0), place))
            passes(features[:1], [serfiq.seed_of(aligned)])
            black = region.blacked_out(picture, outline, as_jpeg=True)
            network(published_tensor(black).to(place)).cpu()
    seconds = time.perf_counter() - started
    return {"frames": len(images), "start_up": start_up, "rate": len(images) / seconds}


def decode_or_none(image: bytes, max_pixels: int) -> np.ndarray | None:
    """RGB (H, W, 3), or None if the bytes are not an image."""
    try:
        return decode(image, max_pixels)
    except UnreadableError:
        return None


def tables_of(settings: config.Config) -> Iterator[pa.Table]:
    """The first `limit` frames as tables, the input of the stages."""
    left = settings.limit or sys.maxsize
    frames = read_shards(list_shards(settings.input, settings.s3, settings.manifest), settings.s3)
    for batch in in_batches(frames, AT_ONCE):
        table = to_table(batch[:left])
        left -= len(table)
        if len(table):
            yield table
        if not left:
            return

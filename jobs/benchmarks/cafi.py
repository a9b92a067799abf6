"""CAFI as published, on the first frames of an input: what the job is compared with in the benchmark."""

import time
from typing import Any

import cv2
import numpy as np
import torch

from faceq import config
from faceq.faces import detect, geometry, landmarks, region, views
from faceq.fiq import recogniser, serfiq
from faceq.fiq.monte_carlo import MonteCarlo
from faceq.iqa.dbcnn_vgg import DBCNN, published_tensor
from faceq.runtime import device
from faceq.runtime.minibatch import to_device
from faceq.sources.decode.image import UnreadableError, decode
from faceq.stages.chosen_models import choose
from jobs.benchmarks.inputs import frames_of, shards_of

CAFI_PASSES = 100


def measure(settings: config.Config) -> dict[str, Any]:
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
    passes = MonteCarlo(backbone.head, CAFI_PASSES, place)
    network = DBCNN().eval().to(place)
    frames = frames_of(settings, shards_of(settings), settings.limit)
    images = [frame.image for frame in frames if frame.image]
    start_up = time.perf_counter() - started
    started = time.perf_counter()
    for image in images:
        picture = decode_or_none(image, settings.max_pixels)
        faces = views.detect_in_view(detector, views.View.of(picture, 1.0), 0) if picture is not None else []
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

"""Helpers of tests on several nodes: stages that hold a logical GPU, run on the CPU, and record where they
ran."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from faceq.job import graph
from jobs import demo


def write_input(folder: Path, face: np.ndarray, count: int) -> Path:
    """Write `count` frames of one face, each slightly different. Every tenth frame is damaged."""
    picture = np.asarray(Image.fromarray(demo._frame_around(face, [200, 60, 80, 110])).resize((192, 192)))
    chance = np.random.default_rng(0)

    def members():
        for index in range(count):
            noise = chance.integers(-20, 20, picture.shape)
            data = demo._jpeg(np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8))
            yield f"{index:05}.jpg", data if index % 10 else data[:1000]

    demo.write_shards(folder, members())
    return folder


def trace_stages(monkeypatch: Any, folder: Path, pause: float = 0.0) -> None:
    """Make each stage record its node, its worker and the logical GPUs that Ray gave it: the file
    `folder`/stage/node/worker holds the ids of the GPUs.

    The stages are those of the job, with real models. Pools with a share of a logical GPU need `device: cpu`,
    or they would look for CUDA. `pause`: seconds that an actor of a pool sleeps per frame, to simulate a slow
    GPU, so that the CPUs are not the bottleneck.
    """

    def note(stage: str) -> None:
        context = ray.get_runtime_context()
        here = folder / stage / context.get_node_id()
        here.mkdir(parents=True, exist_ok=True)
        (here / context.get_worker_id()).write_text(" ".join(context.get_accelerator_ids()["GPU"]))

    find_face = graph.find_face

    def traced_find_face(batch, census, config, models):
        note("find_face")
        return find_face(batch, census, config, models)

    class TracedFindFaceActor(graph.FindFaceActor):
        def __call__(self, batch):
            note("find_face")
            return super().__call__(batch)

    class TracedFiq(graph.FiqStage):
        def __init__(self, config, models, census):
            note("serfiq")
            super().__init__(config, models, census)

        def __call__(self, batch):
            time.sleep(pause * len(batch))
            return super().__call__(batch)

    class TracedQuality(graph.QualityStage):
        def __init__(self, config, models, census):
            note("dbcnn")
            super().__init__(config, models, census)

        def __call__(self, batch):
            time.sleep(pause * len(batch))
            return super().__call__(batch)

    monkeypatch.setattr(graph, "find_face", traced_find_face)
    monkeypatch.setattr(graph, "FindFaceActor", TracedFindFaceActor)
    monkeypatch.setattr(graph, "FiqStage", TracedFiq)
    monkeypatch.setattr(graph, "QualityStage", TracedQuality)


def nodes_of(folder: Path, stage: str) -> set[str]:
    """Nodes on which a stage ran."""
    return {path.name for path in (folder / stage).iterdir()} if (folder / stage).is_dir() else set()


def gpus_of(folder: Path, stage: str) -> set[str]:
    """Ids of the logical GPUs of a stage's processes on all nodes."""
    return {gpu for path in folder.glob(f"{stage}/*/*") for gpu in path.read_text().split()}


def workers_of(folder: Path, stage: str) -> set[str]:
    """Processes in which a stage ran on all nodes."""
    return {path.name for path in folder.glob(f"{stage}/*/*")}

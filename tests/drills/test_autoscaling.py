"""A cluster that grows and shrinks, with Ray's fake multi-node provider: nodes are processes on this machine,
GPUs are logical. `AutoscalingCluster` stops every Ray process on the machine, so these tests run alone."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from clusters import trace_stages, workers_of, write_input
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.cluster_utils import AutoscalingCluster

from faceq import config
from faceq.job import pipeline

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]

FRAMES = 600
IDLE_MINUTES = 0.2


class FakeCloud(AutoscalingCluster):
    """AutoscalingCluster without the example file, which Ray's wheel does not contain, and with Ray's second
    autoscaler, which `ray up` and KubeRay use."""

    def __init__(self, head_resources, worker_node_types, **settings):
        super().__init__(head_resources, worker_node_types, autoscaler_v2=True, **settings)

    def _generate_config(self, head_resources, worker_node_types, *, autoscaler_v2, **settings):
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        commands = ("setup", "head_setup", "worker_setup")
        return {
            "cluster_name": "fake",
            "max_workers": 8,
            "provider": {
                # Named by its module: if it were named by type, Ray would look for the missing example file.
                "type": "external",
                "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
                # There is no SSH to these nodes.
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            **{f"{name}_commands": [] for name in commands},
            "cluster_synced_files": [],
            **settings,
        }


@pytest.fixture
def cloud(aws, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    kinds = {"gpu": {"CPU": 1, "GPU": 1}, "cpu": {"CPU": 2}}
    workers = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2}
        for name, resources in kinds.items()
    }
    cluster = FakeCloud({"CPU": 1}, workers, idle_timeout_minutes=IDLE_MINUTES)
    cluster.start()
    ray.init(address="auto")
    yield
    ray.shutdown()
    cluster.shutdown()


def workers() -> tuple[int, int]:
    """Number of current workers with a GPU and without."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum("GPU" in resources for resources in there)
    return gpus, sum(resources.get("CPU") == 2 for resources in there)


def test_both_types_of_workers_start_pools_grow_and_idle_workers_stop(
    cloud, tmp_path, astronaut, monkeypatch
):
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    trace_stages(monkeypatch, tmp_path / "trace", pause=0.1)
    # Two actors use up a GPU worker, so find_face needs workers of the other type.
    pool = {"num_cpus": 0.5, "num_gpus": 0.5, "device": "cpu", "batch_size": 8}
    chosen = config.build(
        {"input": str(shards), "out": str(tmp_path / "t"), "serfiq": pool, "dbcnn": pool, "rows_per_file": 50}
    )
    assert workers() == (0, 0)
    most, ended = [(0, 0)], threading.Event()

    def watch():
        while not ended.wait(0.5):
            most.append(workers())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = pipeline.score(chosen)
    finally:
        ended.set()
        watcher.join()
    assert done.run.rows == FRAMES
    assert max(gpus for gpus, _ in most) == 2
    assert max(cpus for _, cpus in most) > 0
    for stage in ("serfiq", "dbcnn"):
        assert len(workers_of(tmp_path / "trace", stage)) > 1, f"the pool of {stage} did not grow"
    # Ray Data withdraws its resource request when the job ends. Then the idle timeout starts.
    deadline = time.monotonic() + 60 * IDLE_MINUTES + 60
    while any(workers()):
        assert time.monotonic() < deadline, "idle workers stay"
        time.sleep(2)

"""A cluster that grows and shrinks, by Ray's fake multi-node provider: nodes are processes of this machine,
GPUs are logical. `AutoscalingCluster` ends every Ray on the machine, so these tests run alone."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from clusters import trace_stages, workers_of, write_input
from ray.cluster_utils import AutoscalingCluster

from faceq import config, pipeline

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]

FRAMES = 600
IDLE_MINUTES = 0.2


class FakeCloud(AutoscalingCluster):
    """Without the example file that Ray's wheel leaves out."""

    def _generate_config(self, head_resources, worker_node_types, *, autoscaler_v2=False, **settings):
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        commands = (
            "initialization",
            "setup",
            "head_setup",
            "worker_setup",
            "head_start_ray",
            "worker_start_ray",
        )
        return {
            "cluster_name": "fake",
            "max_workers": 8,
            "provider": {
                "type": "fake_multinode",
                # All nodes share this machine's address: without it the autoscaler takes each for lost.
                "use_node_id_as_ip": True,
                # Nobody logs into these nodes.
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            **{f"{name}_commands": [] for name in commands},
            **{
                "auth": {},
                "docker": {},
                "file_mounts": {},
                "cluster_synced_files": [],
                "upscaling_speed": 1.0,
            },
            **settings,
        }


@pytest.fixture
def cloud(aws, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    gpu = {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    cluster = FakeCloud({"CPU": 1}, {"gpu": gpu}, idle_timeout_minutes=IDLE_MINUTES)
    cluster.start()
    ray.init(address="auto")
    yield
    ray.shutdown()
    cluster.shutdown()


def gpu_nodes() -> int:
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU"))


def test_workers_come_pools_grow_workers_go(cloud, tmp_path, astronaut, monkeypatch):
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    trace_stages(monkeypatch, tmp_path / "trace", pause=0.1)
    pool = {"num_cpus": 0.5, "num_gpus": 0.5, "device": "cpu", "batch_size": 8}
    chosen = config.build(
        {"input": str(shards), "out": str(tmp_path / "t"), "serfiq": pool, "dbcnn": pool, "rows_per_file": 50}
    )
    assert gpu_nodes() == 0
    most, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.5):
            most[0] = max(most[0], gpu_nodes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = pipeline.score(chosen)
    finally:
        ended.set()
        watcher.join()
    assert done.run.rows == FRAMES
    assert most[0] == 2
    for stage in ("serfiq", "dbcnn"):
        assert len(workers_of(tmp_path / "trace", stage)) > 1, f"the pool of {stage} did not grow"
    # Ray Data's last request for machines holds for three minutes; then the idle timeout runs.
    deadline = time.monotonic() + 180 + 60 * IDLE_MINUTES + 120
    while gpu_nodes():
        assert time.monotonic() < deadline, "idle workers stay"
        time.sleep(2)

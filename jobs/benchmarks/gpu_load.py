"""GPU load of a cluster while a job runs, measured by `nvidia-smi` on each node."""

import subprocess
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOK_FOR_NODES_S = 10
QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--loop=1"]
"""Prints a line per GPU every second."""


@ray.remote(num_cpus=0)
class _Watcher:
    """Reads the load of one node's GPUs every second."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._found: list[tuple[float, float]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True) as smi:
            assert smi.stdout is not None
            for line in smi.stdout:
                load, memory = line.split(",")
                self._found.append((float(load), float(memory)))

    def readings(self) -> tuple[int, float, float]:
        """Number of readings of all GPUs, their mean load in percent, the peak memory of one GPU in MB."""
        found = list(self._found)
        loads, memory = zip(*found, strict=True) if found else ((0.0,), (0.0,))
        return len(found), sum(loads) / len(loads), max(memory)


class GpuLoad:
    """Watches the GPUs of all nodes, also of nodes that join later, while the block runs. Needs Ray."""

    def __enter__(self) -> "GpuLoad":
        self._watchers: dict[str, Any] = {}
        self._ended = threading.Event()
        self._look()
        self._looker = threading.Thread(target=self._look_again, daemon=True)
        self._looker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._looker.join()

    def mean(self) -> dict[str, dict[str, float]]:
        """By node: mean load of its GPUs, 0...100, and the peak memory of one GPU in MB."""
        found = {}
        for node, watcher in self._watchers.items():
            try:
                readings, load, memory = ray.get(watcher.readings.remote(), timeout=10)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                continue  # the node is gone
            if readings:
                found[node] = {"load": round(load, 1), "memory_mb": memory}
        return found

    def _look_again(self) -> None:
        while not self._ended.wait(LOOK_FOR_NODES_S):
            self._look()

    def _look(self) -> None:
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("GPU") and node["NodeID"] not in self._watchers:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = _Watcher.options(scheduling_strategy=there)  # type: ignore[attr-defined]
                self._watchers[node["NodeID"]] = options.remote(QUERY)

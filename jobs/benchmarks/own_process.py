"""Run a measurement in a process of its own, and watch the memory of this process and its children."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil

from faceq.config import Config

LOOK_EVERY_S = 2
"""Time between two readings of the memory. One reading takes some 2 ms of CPU time a process."""


def in_own_process(measure: Callable[[Config], dict[str, Any]], settings: Config) -> dict[str, Any]:
    """Run a measurement in its own process. Adds the peak memory of this process and its children."""
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
    while not ended.wait(LOOK_EVERY_S):
        peak[0] = max(peak[0], _memory(pid))


def _memory(pid: int) -> float:
    """Bytes held by a process and its children. Processes that share a page count a part of it each."""
    total = 0.0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # the process has ended meanwhile
    return total

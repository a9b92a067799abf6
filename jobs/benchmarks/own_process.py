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
GROWTH = 1.1
"""Every LOOK_EVERY_S seconds, the resident memory is read. Only if it is more than GROWTH times that of the
last exact reading, pages are counted exactly. For a process of 400 to 800 MB that takes 12 to 27 ms of CPU
time, which the measured processes would lack."""


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
    resident = 0
    while not ended.wait(LOOK_EVERY_S):
        now = _sum(pid, lambda process: process.memory_info().rss)
        if now > GROWTH * resident:
            resident = now
            # Processes that share a page count a part of it each.
            peak[0] = max(peak[0], _sum(pid, lambda process: process.memory_full_info().pss))


def _sum(pid: int, read: Callable[[psutil.Process], int]) -> int:
    """The sum over a process and its children, in bytes."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            total += read(process)
        except psutil.Error:
            continue  # the process has ended meanwhile
    return total

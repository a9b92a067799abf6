"""Starts a Ray for one job on this machine: its resources, who can reach it, what it prints.

It uses the resources that this process may use, not all of the machine. It listens on the loopback interface
only. It prints none of its own messages, which address developers of Ray: they are in its logs,
`ray/session_latest/logs` in RAY_TMPDIR or /tmp.
"""

import contextlib
import functools
import logging
import os
import resource
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray._private import worker as ray_worker

from faceq.errors import JobError, UsageError
from faceq.job import lean_ray
from faceq.runtime import cgroup, device

log = logging.getLogger(__name__)

MEMORY_PER_CPU = 2_000_000_000
"""Bytes for each CPU: a process that runs all stages takes 0.95 GB if the frames are 1080p video. The process
that reads, Ray's own processes and the job's process take 1 GB together, and the object store takes its share
of the whole."""

JOB_MEMORY = 3_000_000_000
"""Approximate memory in bytes that a job takes on two CPUs: in a control group it held at most 2.7 GB."""

STORE_SHARE = 0.3
"""Share of the memory that the object store gets, equal to Ray's default."""

TEMP_BYTES = 100_000_000
"""Bytes that must be free in Ray's temporary folder. The logs of a job there are a few megabytes; blocks that
do not fit into the object store are added. If there is no room for them, workers do not start, and Ray
reports nothing."""

KEEP_IDLE_MS = 600_000
"""Time after which Ray ends a worker process that has nothing to do, in milliseconds. Ray's default is one
second if there are more workers than CPUs, as in every job: the workers that read and write would end again
and again, and each start takes a second of CPU time."""

CONNECT_EVERY_MS, CONNECT_ATTEMPTS = 20, 500
"""How Ray's server process retries to connect to its own object store, which it starts at the same moment. By
default it makes ten attempts, one every second: the first one fails, and so every start takes a second
longer."""

METRICS_EVERY_MS = 1000
"""How often processes send their metrics to the endpoint, if there is one, in milliseconds. With Ray's
default, 10 s, those of a short job would never arrive, and the last ones of any job would be missing."""

LEAST_BYTES = 1 << 20
"""If fewer bytes are free in that folder while a job runs, no new process starts."""

FILES_AT_LEAST, FILES_PER_CPU = 512, 24
"""Open files of one process: each of Ray's server processes holds about five for every worker, and there are
at most four workers for each CPU."""


def cpus() -> int:
    """CPUs that Ray gets if the configuration does not set them: those that this process may use, limited by
    its memory.

    At least two: a share for each of the two pools, and the rest for the tasks that feed them.
    """
    return max(2, min(device.usable_cpus(), memory() // MEMORY_PER_CPU))


def memory() -> int:
    """Bytes of memory that this process may use: its container's, or the machine's."""
    total: int = psutil.virtual_memory().total
    limit = cgroup.memory_limit()
    return total if limit is None else min(total, limit)


def start(num_cpus: int, system_config: dict[str, Any], metrics_port: int | None = None) -> None:
    """Start a Ray on this machine and connect to it.

    Args:
        num_cpus: its logical CPUs.
        system_config: settings of Ray's server processes.
        metrics_port: at which it serves metrics; None: it serves none.

    Raises:
        UsageError: the port is in use, or this user may not listen at it.
        JobError: there is no room for it, or it does not start.
    """
    check_room(num_cpus)
    if metrics_port is not None:
        check_port(metrics_port)
        system_config = {"metrics_report_interval_ms": METRICS_EVERY_MS, **system_config}
    if memory() < JOB_MEMORY:
        log.warning(
            "this job has %.1f GB of memory and needs about %.0f GB: if its processes are killed, give the "
            "machine or the container more memory",
            memory() / 1e9,
            JOB_MEMORY / 1e9,
        )
    _keep_token_private()
    given: dict[str, Any] = {"_metrics_export_port": metrics_port}
    # Ray sees the memory limit of a container, but not that of a control group below it.
    if memory() < psutil.virtual_memory().total:
        store = int(STORE_SHARE * memory())
        given |= {"object_store_memory": store, "_memory": memory() - store}
    settings = {
        "idle_worker_killing_time_threshold_ms": KEEP_IDLE_MS,
        "raylet_client_connect_timeout_milliseconds": CONNECT_EVERY_MS,
        "raylet_client_num_connect_attempts": CONNECT_ATTEMPTS,
    }
    with _on_loopback(), lean_ray.few_servers(metrics=metrics_port is not None):
        # `local`: without it, Ray would join a cluster that somebody else runs on this machine.
        connect(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            _system_config=settings | system_config,
            **given,
        )


def connect(**options: Any) -> None:
    """`ray.init` without Ray's messages; the output of workers stays in their logs."""
    with _silent_native_code():
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)


def check_port(port: int) -> None:
    """Check that a process of this user can listen at a port of the loopback interface; UsageError if not.
    Ray would start without its metrics."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"metrics_port={port}: {error.strerror}: choose a free port of 1024 or higher"
            ) from None


def check_room(num_cpus: int) -> None:
    """Check that Ray's temporary folder has room, and that this process may open enough files; JobError if
    not."""
    folder = get_default_ray_temp_dir()
    free = free_bytes(folder)
    if free < TEMP_BYTES:
        raise JobError(no_room(folder, free))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # Ray raises the soft limit itself
    needed = FILES_AT_LEAST + FILES_PER_CPU * num_cpus
    if most != resource.RLIM_INFINITY and most < needed:
        raise JobError(
            f"a process may open {most:,} files here, and Ray needs {needed:,} for {num_cpus} CPUs: raise "
            "the hard limit (/etc/security/limits.conf, docker run --ulimit nofile=65536), or lower num_cpus"
        )


def no_room(folder: str, free: int) -> str:
    """The message for a full temporary folder."""
    return (
        f"{folder}: {free / 1e6:,.1f} MB are free, and Ray needs {TEMP_BYTES / 1e6:,.0f} MB there for its "
        "logs: delete files, or set RAY_TMPDIR to another folder"
    )


def free_bytes(folder: str) -> int:
    """Free bytes on the disk of a folder that exists or will be created."""
    there = Path(folder)
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def _keep_token_private() -> None:
    """Ensure that nobody else can read the token that gives access to this user's Ray clusters.

    Ray writes it into the home directory with the default permissions. If it cannot be kept there, this job
    gets a token of its own.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)
            return
        handle, written = tempfile.mkstemp(dir=path.parent)  # private to its owner
        with open(handle, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(written, path)
        except FileExistsError:
            pass  # another job was faster
        finally:
            os.unlink(written)
    except (OSError, RuntimeError):  # no home directory, or not writable
        os.environ["RAY_AUTH_TOKEN"] = _own_token()


@functools.cache
def _own_token() -> str:
    """The same token for every Ray that this process starts: Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def token_in_environment() -> Iterator[None]:
    """Remove the token after the block that `start` has put into the environment."""
    was_there = "RAY_AUTH_TOKEN" in os.environ
    try:
        yield
    finally:
        if not was_there:
            os.environ.pop("RAY_AUTH_TOKEN", None)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on 127.0.0.1 only.

    Ray replaces a loopback address by the machine's own address, except in builds for a single machine, as on
    macOS: there all its servers, workers and agents bind to the loopback interface.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _silent_native_code() -> Iterator[None]:
    """Keep the log messages of Ray's native code in this process off standard error; the processes that Ray
    starts write their logs as usual.

    Ray reads the level once, when it connects, and its native code reports the level on standard error.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    os.putenv("RAY_BACKEND_LOG_LEVEL", "fatal")  # not os.environ: Ray's processes get a copy of that
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.unsetenv("RAY_BACKEND_LOG_LEVEL")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While the block runs, Ray prints nothing to this process's streams; the job itself reports what
    matters."""
    printing = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda *arguments, **options: None
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = printing


@contextlib.contextmanager
def quiet_data() -> Iterator[None]:
    """The same for Ray Data, which must have been imported."""
    consoles = [handler for handler in logging.getLogger("ray.data").handlers if handler.name == "console"]
    levels = [handler.level for handler in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)

"""The Ray that a job runs on, joined or started, and the maximum size of its pools of actors."""

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import ray

from faceq.config import Config
from faceq.errors import FaceqError, JobError, UsageError
from faceq.job import lean_ray, local_ray, resources
from faceq.job.census import DEATHS_OF_A_KILLER
from faceq.job.ray_signals import kept_from_ray
from faceq.messages.one_line import one_line
from faceq.runtime import device
from faceq.sources.listing import PICTURES_PER_TASK
from faceq.stage_resources import Stage
from faceq.stages.placement import on_gpus, requests, shared_pool

log = logging.getLogger(__name__)

MAX_RETRIES = 8
"""Retries of a task that reads, decodes or writes after its process died. Ray's default is unlimited: an
image that crashes a decoder would loop forever."""

TASKS_IN_FLIGHT = 4
"""Maximum number of batches that are sent to one actor, including the one that it works on: the next ones are
fetched in the meantime, also from other machines."""

TASKS_IN_FLIGHT_HERE = 2
"""The same on one machine for actors that run all stages: they spend a second on a batch, and at the end of
the job no actor should have many batches while another one has none."""

_GRAPH = "faceq.job.graph"
"""The module that imports Ray Data, which takes a second. It is imported while this process waits for Ray's
processes. Modules that are imported earlier do not import Ray Data."""


@contextlib.contextmanager
def ray_for(config: Config) -> Iterator[Config]:
    """Inside the block a Ray is available: the caller's, or one that is joined or started, and left at the
    end. Yields the settings for this Ray: see `with_local_gpus`.

    Ray is left before a failure is reported, so that the reason is the last line of the output.
    """
    if ray.is_initialized():
        yield config
        return
    with local_ray.quiet(), local_ray.token_in_environment():
        try:
            with kept_from_ray(), _imported_meanwhile(_GRAPH):
                start_ray(config)
            with contextlib.ExitStack() as stack:
                stack.enter_context(local_ray.quiet_data())
                # The driver knows neither what runs on a cluster's GPUs, nor which GPUs will be added.
                if not os.environ.get("RAY_ADDRESS"):
                    config = with_local_gpus(config)
                    _check_room(config)
                    stack.enter_context(lean_ray.few_actors())
                yield config
        finally:
            with kept_from_ray():
                ray.shutdown()


def runs_here() -> bool:
    """Whether `ray_for` starts a Ray on this machine. Otherwise the job runs on a Ray that exists already,
    and this process does not know its machines."""
    return not (ray.is_initialized() or os.environ.get("RAY_ADDRESS"))


@contextlib.contextmanager
def _imported_meanwhile(module: str) -> Iterator[None]:
    """Import a module in another thread while the block runs, and wait for it at the end."""

    def run() -> None:
        with contextlib.suppress(Exception):  # the next import of this module raises it again
            importlib.import_module(module)

    thread = threading.Thread(target=run, name="faceq-imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def start_ray(config: Config) -> None:
    """Join the Ray that RAY_ADDRESS names (Ray sets it for submitted jobs), or start one on this machine.

    Raises:
        UsageError: no cluster answers at that address, or `metrics_port` cannot be used.
        JobError: Ray has no room on this machine, or does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        log.info("joining the Ray cluster at %s", address)
        if config.metrics_port is not None:
            log.warning(
                "metrics_port has no effect on a cluster: its nodes serve metrics at the ports of `ray start "
                "--metrics-export-port`"
            )
        try:
            local_ray.connect()
        except ray.exceptions.AuthenticationError:
            raise UsageError(
                f"RAY_ADDRESS={address}: RAY_AUTH_MODE=token is set, but this machine has no token: copy the "
                "cluster's token to ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there: {error} (if it needs a token, set "
                "RAY_AUTH_MODE=token)"
            ) from None
        return
    # `max_retries` does not count processes that Ray ends for lack of memory: they would be retried forever.
    batch = max(config.find_face.batch_size, PICTURES_PER_TASK)
    bounds = {"task_oom_retries": MAX_RETRIES + DEATHS_OF_A_KILLER * batch}
    log.info("starting Ray")
    try:
        local_ray.start(config.num_cpus or local_ray.cpus(), bounds, config.metrics_port)
    except FaceqError:
        raise
    except Exception as error:  # Ray raises exactly this class if one of its processes does not start
        raise JobError(f"Ray did not start on this machine: {one_line(error)}") from error


def _check_room(config: Config) -> None:
    """Check that this machine can run every pool at its minimum size together with one task that feeds it: a
    job that requests more would wait forever. (A cluster may grow, so a job waits there: see `watchdog`.)"""
    there = ray.cluster_resources()
    machine = resources.Machine(there.get("CPU", 0), there.get("GPU", 0))
    lacking = resources.shortage(requests(config, shared_pool(config, machine.cpus)), [machine], local=True)
    if lacking:
        raise UsageError(
            f"config: {lacking}: lower num_cpus, num_gpus or min_size, or name a cluster in RAY_ADDRESS"
        )


def with_local_gpus(config: Config) -> Config:
    """The settings for a Ray that was started on this machine: if it has a GPU that models can run on, pools
    whose device is `auto` share it."""
    cards = ray.cluster_resources().get("GPU", 0)
    if not cards:
        return config
    reason = device.missing()
    if reason is None:
        return on_gpus(config, cards)
    if any(pool.device == "auto" for pool in (config.serfiq, config.dbcnn)):
        device.warn_unused(reason)
    return config


def pool_options(pool: Stage, in_flight: int = TASKS_IN_FLIGHT) -> dict[str, Any]:
    """The arguments of `map_batches` that run a stage as a pool of actors on the current Ray.

    `in_flight`: maximum number of batches that are sent to one actor.
    """
    from ray.data import ActorPoolStrategy  # noqa: PLC0415 - see `_GRAPH`

    return {
        "compute": ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size or _most_actors(pool),
            initial_size=pool.first_size,
            max_tasks_in_flight_per_actor=in_flight,
        ),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus,
        "batch_size": pool.batch_size,
        "batch_format": "pyarrow",
        # Actors are replaced without limit, as machines come and go. A batch over which they die is retried
        # a limited number of times.
        "max_restarts": -1,
        "max_task_retries": MAX_RETRIES,
    }


def _most_actors(pool: Stage) -> int | None:
    """Maximum number of actors of a pool if the configuration does not set it; None: as many as Ray Data's
    budget for the stage allows, which follows the available resources and grows as machines are added.

    The size to which a cluster may grow is not known when the job starts: open-source Ray does not report it.
    A limit taken from the resources at the start would remain that of the first machine. On a local machine,
    a pool on CPUs gets at most half of them: otherwise the two pools would take turns at starting actors.
    """
    if pool.num_gpus or os.environ.get("RAY_ADDRESS"):
        return None
    return max(pool.first_size, int(ray.cluster_resources().get("CPU", 1)) // 2)

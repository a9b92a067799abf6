"""The Ray that a job runs on: joined or started, and how large its pools of actors may get there."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from faceq.config import Config, Stage
from faceq.errors import JobError, UsageError
from faceq.job import local_ray, resources
from faceq.job.census import DEATHS_OF_A_KILLER
from faceq.job.ray_signals import kept_from_ray
from faceq.messages.one_line import one_line
from faceq.runtime import device
from faceq.sources.listing import PICTURES_PER_TASK
from faceq.stages.placement import on_gpus, requests

MAX_RETRIES = 8
"""Times that a task which reads, decodes or writes is run again after its process died. Ray's default is
for ever: a picture that crashes a decoder would loop."""

TASKS_IN_FLIGHT = 4
"""Batches that are sent to one actor at most, the one that it works on counted: the next ones are fetched
meanwhile, from other machines, too."""


@contextlib.contextmanager
def ray_for(config: Config) -> Iterator[Config]:
    """Inside the block there is a Ray: the caller's, or one that is joined or started, and left at the end.
    The settings that it gives are those for that Ray: see `with_local_gpus`.

    Left before a failure is told, so that the reason is the last that is said.
    """
    if ray.is_initialized():
        yield config
        return
    with local_ray.quiet(), local_ray.token_in_environment():
        try:
            with kept_from_ray():
                start_ray(config)
            # Of a cluster's cards the driver knows neither what runs on them, nor which are still to come.
            if not os.environ.get("RAY_ADDRESS"):
                config = with_local_gpus(config)
                _check_room(config)
            yield config
        finally:
            with kept_from_ray():
                ray.shutdown()


def start_ray(config: Config) -> None:
    """Join the Ray that RAY_ADDRESS names (a submitted job finds it set), or start one on this machine.

    Raises:
        UsageError: no cluster answers there.
        JobError: Ray has no room on this machine, or does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            local_ray.connect()
        except ray.exceptions.AuthenticationError:
            raise UsageError(
                f"RAY_ADDRESS={address}: RAY_AUTH_MODE=token is set, and there is no token here: bring the "
                "cluster's to ~/.ray/auth_token, or into RAY_AUTH_TOKEN"
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there: {error} (if it wants a token, set "
                "RAY_AUTH_MODE=token)"
            ) from None
        return
    # Processes that Ray ends for their memory are not counted in `max_retries`, and come again for ever.
    batch = max(config.find_face.batch_size, PICTURES_PER_TASK)
    bounds = {"task_oom_retries": MAX_RETRIES + DEATHS_OF_A_KILLER * batch}
    try:
        local_ray.start(config.num_cpus or local_ray.cpus(), bounds)
    except JobError:
        raise
    except Exception as error:  # Ray raises this very class where a process of its own does not start
        raise JobError(f"Ray did not start on this machine: {one_line(error)}") from error


def _check_room(config: Config) -> None:
    """That this machine can run every pool at its least size beside one task that feeds it: a job that
    asks for more would wait. (A cluster may still grow, so there it waits for a while: see `watchdog`.)"""
    there = ray.cluster_resources()
    machine = resources.Machine(there.get("CPU", 0), there.get("GPU", 0))
    lacking = resources.shortage(requests(config), [machine])
    if lacking:
        raise UsageError(
            f"config: {lacking}: lower num_cpus, num_gpus or min_size, or name a cluster in RAY_ADDRESS"
        )


def with_local_gpus(config: Config) -> Config:
    """The settings as they are on a Ray that was started on this machine: where it has a GPU that models can
    run on, pools whose device is `auto` share it."""
    cards = ray.cluster_resources().get("GPU", 0)
    if not cards:
        return config
    reason = device.missing()
    if reason is None:
        return on_gpus(config, cards)
    if any(pool.device == "auto" for pool in (config.serfiq, config.dbcnn)):
        device.warn_unused(reason)
    return config


def pool_options(pool: Stage) -> dict[str, Any]:
    """What `map_batches` needs to run a stage as a pool of actors on the Ray that is there."""
    return {
        "compute": ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size or _most_actors(pool),
            initial_size=pool.first_size,
            max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT,
        ),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus,
        "batch_size": pool.batch_size,
        "batch_format": "pyarrow",
        # Actors are replaced without end, as machines come and go; a batch over which they die is not.
        "max_restarts": -1,
        "max_task_retries": MAX_RETRIES,
    }


def _most_actors(pool: Stage) -> int | None:
    """Actors that a pool may have where the configuration does not say; None: as many as Ray Data's budget
    for the stage allows, which follows the resources that are there, and grows as machines come.

    What a cluster may grow to is not known when the job starts: Ray's open edition reports it to nobody. A
    bound taken from what is there would stay with the first machine. On a machine of one's own a pool on
    CPUs is held to half of them: with the other one it would take turns at starting actors.
    """
    if pool.num_gpus or os.environ.get("RAY_ADDRESS"):
        return None
    return max(pool.first_size, int(ray.cluster_resources().get("CPU", 1)) // 2)

"""The Ray that a job runs on: joined or started, and how large its pools of actors may get there."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from faceq import device, signals
from faceq.census import DEATHS_OF_A_KILLER
from faceq.config import Config, Stage
from faceq.errors import UsageError
from faceq.listing import PICTURES_PER_TASK

MAX_RETRIES = 8
"""Times that a task which reads, decodes or writes is run again after its process died. Ray's default is
for ever: a picture that crashes a decoder would loop."""

TASKS_IN_FLIGHT = 4
"""Batches that are sent to one actor at most, the one that it works on counted: the next ones are fetched
meanwhile, from other machines, too."""


@contextlib.contextmanager
def ray_for(config: Config) -> Iterator[Config]:
    """Inside the block there is a Ray: the caller's, or one that is joined or started, and left at the end.
    The settings that it gives are those for that Ray: see `settled`.

    Left before a failure is told, so that the reason is the last that is said: the output of workers
    arrives late, and would come after it.
    """
    if ray.is_initialized():
        yield config
        return
    try:
        with signals.kept_from_ray():
            start_ray(config)
        # Of a cluster's cards the driver knows neither what runs on them, nor which are still to come.
        if not os.environ.get("RAY_ADDRESS"):
            config = settled(config)
            _check_room(config)
        yield config
    finally:
        ray.shutdown()


def start_ray(config: Config) -> None:
    """Join the Ray that RAY_ADDRESS names (a submitted job finds it set), or start one on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init()
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
    # Two at least: a share each for two pools, and the rest for tasks that feed them.
    cpus = config.num_cpus or max(2, device.usable_cpus())
    # `local`: without it Ray would join a cluster that somebody else has running on this machine.
    # Processes that Ray ends for their memory are not counted in `max_retries`, and come again for ever.
    batch = max(config.find_face.batch_size, PICTURES_PER_TASK)
    bounds = {"task_oom_retries": MAX_RETRIES + DEATHS_OF_A_KILLER * batch}
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, _system_config=bounds)


def _check_room(config: Config) -> None:
    """That this machine can run every pool at its least size beside one task that feeds it: a job that
    asks for more would wait for ever. (A cluster may still grow, so there it is not checked.)"""
    there = ray.cluster_resources()
    pools: tuple[Stage, ...] = (config.serfiq, config.dbcnn)
    feeding = max(config.read.num_cpus, config.find_face.num_cpus)
    if config.find_face.num_gpus:
        pools, feeding = (*pools, config.find_face), config.read.num_cpus
    for resource, needed in (
        ("CPU", feeding + sum(pool.min_size * pool.num_cpus for pool in pools)),
        ("GPU", sum(pool.min_size * pool.num_gpus for pool in pools)),
    ):
        if needed > there.get(resource, 0):
            raise UsageError(
                f"config: the stages ask for at least {needed:g} {resource}s, this machine has "
                f"{there.get(resource, 0):g}: lower num_{resource.lower()}s or min_size, or name a cluster "
                "in RAY_ADDRESS"
            )


def settled(config: Config) -> Config:
    """The settings as they are on a Ray that was started on this machine: where it has a GPU that models can
    run on, pools whose device is `auto` share it."""
    cards = ray.cluster_resources().get("GPU", 0)
    if not cards:
        return config
    reason = device.missing()
    if reason is None:
        return config.on_gpus(cards)
    if any(pool.device == "auto" for pool in (config.serfiq, config.dbcnn)):
        device.say_unused(reason)
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

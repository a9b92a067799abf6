"""Starts only those processes of a local Ray that a job uses.

Ray's defaults are for clusters with a dashboard, metrics and autoscaling. On one machine, `ray.init` and Ray
Data start eight Python processes for them, which take six seconds of CPU time before the first frame is
scored, and the job waits for several of them. Ray has no settings for this, so the functions that start them
are replaced while the job runs. If Ray's version is not one of TESTED, nothing is replaced: everything works,
and the start takes longer.
"""

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import _raylet
from ray._private import node, parameter, ray_constants, services, state, worker

from faceq.job import ray_agent, ray_worker_start

TESTED = ("2.60.",)
"""Beginnings of the versions of Ray of which processes can be left out."""

START_S = 30
"""Seconds after which Ray's own function reports a node that has not started."""

_DASHBOARD_AGENT = ray_constants.PROCESS_TYPE_DASHBOARD_AGENT
_DASHBOARD_PORTS = ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN")
_RUNTIME_ENV_AGENT = ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT
_RUNTIME_ENV_PORTS = ("RUNTIME_ENV_AGENT",)

_RUNTIME_ENV = "_maybe_modify_runtime_env"
"""The function that gives workers a runtime environment if the program runs under `uv run`, or if
RAY_RUNTIME_ENV_HOOK is set."""

_INTERPRETER = "_build_python_executable_command_memory_profileable"
"""The function that returns the first part of the command of a Python process."""


@contextlib.contextmanager
def few_servers(metrics: bool = False) -> Iterator[None]:
    """A Ray that is started in the block has no monitor for autoscaling, no log monitor, no API server and no
    agents, and starts workers by `ray_worker_start`.

    Args:
        metrics: Ray's dashboard agent runs, because it serves the metrics of the job.
    """
    if not ray.__version__.startswith(TESTED):
        yield
        return
    native: Any = _raylet  # its stubs are incomplete
    start_raylet, interpreter = node.Node.start_raylet, getattr(services, _INTERPRETER)
    get_node = services.get_node

    left_out = {_DASHBOARD_AGENT: _DASHBOARD_PORTS, _RUNTIME_ENV_AGENT: _RUNTIME_ENV_PORTS}
    if metrics:
        del left_out[_DASHBOARD_AGENT]

    def start_raylet_without_agents(self: Any, *arguments: Any, **options: Any) -> None:
        # The raylet waits for these ports. -1: nothing listens.
        for name in itertools.chain.from_iterable(left_out.values()):
            port = getattr(native, f"{name}_PORT_NAME")
            native.persist_port(self._session_dir, self._node_id, port, -1)
        start_raylet(self, *arguments, **options)

    def interpreter_of(component: str, *arguments: Any, **options: Any) -> list[str]:
        if component in left_out:
            return [sys.executable, "-I", "-S", ray_agent.__file__]
        command: list[str] = interpreter(component, *arguments, **options)
        return command

    def get_node_soon(address: str, node_id: str) -> Any:
        wait_for_node(address, node_id)
        return get_node(address, node_id)

    chosen: dict[str, Any] = {"include_log_monitor": False, "no_monitor": True}
    parameters = functools.partial(parameter.RayParams, setup_worker_path=ray_worker_start.__file__, **chosen)
    with (
        _replaced(parameter, "RayParams", parameters),
        _replaced(node.Node, "start_api_server", lambda *arguments, **options: None),
        _replaced(node.Node, "start_raylet", start_raylet_without_agents),
        _replaced(services, "get_node", get_node_soon),
        # Workers have the environment of the job's process, also under `uv run` or with RAY_RUNTIME_ENV_HOOK:
        # there is no agent that could prepare another one.
        _replaced(worker, _RUNTIME_ENV, lambda given, *rest: given),
        _replaced(services, _INTERPRETER, interpreter_of),
    ):
        yield


def wait_for_node(address: str, node_id: str) -> None:
    """Wait until a node that is being started has registered, but at most START_S seconds. Ray's own function
    looks for it only once a second.

    Args:
        address: of the cluster's control service.
        node_id: hex digits.
    """
    cluster = state.GlobalState()
    cluster._initialize_global_state(services._get_gcs_client_options(address))
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until and all(each["NodeID"] != node_id for each in cluster.node_table()):
            time.sleep(0.02)
    finally:
        cluster.disconnect()


@contextlib.contextmanager
def few_actors() -> Iterator[None]:
    """Ray Data starts no actors of its own in the block, in which this process is connected to a Ray on one
    machine that it has started itself.

    These actors are: one that collects metrics for the dashboard; one that records on which machine each
    actor of a pool runs; and one that divides the machines of a cluster among all programs that use it and
    requests more. Before the last one has answered, Ray Data assumes that there are no CPUs.
    """
    if not ray.__version__.startswith(TESTED):
        yield
        return
    from ray.data._internal import stats  # noqa: PLC0415 - takes a second to import
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler  # noqa: PLC0415
    from ray.data._internal.execution.operators import actor_pool_map_operator  # noqa: PLC0415

    with (
        _replaced(stats, "get_or_create_stats_actor", Nobody),
        _replaced(actor_pool_map_operator, "get_or_create_actor_location_tracker", Nobody),
        _replaced(actor_pool_map_operator, "get_actor_locations", lambda actors: {}),
        _replaced(rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", WholeMachine),
    ):
        yield


class Nobody:
    """In place of the handle of an actor: its methods do nothing."""

    def __getattr__(self, name: str) -> "Nobody":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *arguments: Any, **options: Any) -> None:
        """Call a method of the actor."""


class WholeMachine:
    """In place of Ray Data's `DefaultAutoscalingCoordinator`: the only program that runs on this Ray gets all
    of the machine, and there are no other machines to request."""

    def __init__(self, *arguments: Any, **options: Any):
        # Rounded down, as Ray Data does it.
        self._resources = {
            found["NodeID"]: {name: amount // 1 for name, amount in found["Resources"].items()}
            for found in ray.nodes()
            if found["Alive"]
        }

    def request_resources(self, *arguments: Any, **options: Any) -> None:
        """Request more machines."""

    def cancel_request(self) -> None:
        """Release what was reserved."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """Resources that are reserved for this program, by node."""
        return self._resources


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """In the block, an attribute of a module or class has another value."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)

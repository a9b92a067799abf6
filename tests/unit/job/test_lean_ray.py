"""What a local Ray leaves out, and how it starts workers."""

import pickle

import ray
from ray._private import node, worker
from ray._private.runtime_env import uv_runtime_env_hook
from ray.data._internal import stats

from faceq.job import lean_ray, ray_worker_start


def test_a_worker_is_started_directly_unless_it_has_an_environment_of_its_own():
    worker = ["/ray/workers/default_worker.py", "--node-id=0a", "--runtime-env-hash=0"]
    plain = ["--serialized-runtime-env-context={}", "--language=PYTHON"]
    assert ray_worker_start.command([*plain, *worker]) == worker
    assert ray_worker_start.command([*worker, "--language=PYTHON"]) == worker
    for other in ('--serialized-runtime-env-context={"env_vars": {}}', "--language=CPP"):
        given = [other, *worker]
        assert ray_worker_start.command(given) == ["/ray/workers/setup_worker.py", *given]


def test_workers_get_no_runtime_environment_that_an_agent_would_have_to_prepare(monkeypatch):
    """There is no such agent, and Ray would wait for it. `uv run` and a hook make such environments."""
    monkeypatch.setenv("RAY_RUNTIME_ENV_HOOK", "test_lean_ray.hook")
    monkeypatch.setattr(uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run", "faceq"])
    with lean_ray.few_servers():
        assert worker._maybe_modify_runtime_env({}, False) == {}


def test_a_job_gets_the_whole_machine(monkeypatch):
    has = {"CPU": 2.5, "memory": 7.5, "object_store_memory": 3.0, "node:127.0.0.1": 1.0}
    nodes = [{"NodeID": "one", "Alive": True, "Resources": has}, {"NodeID": "two", "Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    machine = lean_ray.WholeMachine("requester", subcluster_selector=None)
    machine.request_resources([], 180, request_remaining=["CPU"])
    machine.cancel_request()
    reserved = machine.get_reserved_resources()["one"]
    assert (reserved["CPU"], reserved["memory"], reserved["object_store_memory"]) == (2, 7, 3)


def test_the_stand_in_for_an_actor_can_be_sent_to_workers():
    nobody = pickle.loads(pickle.dumps(lean_ray.Nobody()))
    assert nobody.update_actor_location.remote("actor", "node") is None


def test_another_version_of_ray_starts_as_usual(monkeypatch):
    before = node.Node.start_raylet, stats.get_or_create_stats_actor
    with lean_ray.few_servers(), lean_ray.few_actors():
        assert node.Node.start_raylet != before[0] and stats.get_or_create_stats_actor != before[1]
    monkeypatch.setattr(ray, "__version__", "2.99.0")
    with lean_ray.few_servers(), lean_ray.few_actors():
        assert (node.Node.start_raylet, stats.get_or_create_stats_actor) == before
    assert (node.Node.start_raylet, stats.get_or_create_stats_actor) == before

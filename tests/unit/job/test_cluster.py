"""The maximum size of pools, and the number of threads of their models."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest
import ray
import torch

from faceq import config
from faceq.errors import UsageError
from faceq.fiq.distances import DropoutDistances
from faceq.job import cluster
from faceq.stage_resources import Pool
from faceq.stages import scores
from faceq.stages.chosen_models import choose
from faceq.stages.placement import on_gpus, requests, shared_pool
from faceq.stages.scores import ScoreFiq


@pytest.mark.parametrize(
    ("cpus", "pool", "sizes"),
    [
        # A laptop: some CPUs are left for the tasks that feed two pools of one actor each.
        (2, Pool(), (1, 1, 1)),
        (16, Pool(), (1, 1, 8)),
        (2, Pool(initial_size=3), (1, 3, 3)),
        (96, Pool(min_size=2, initial_size=4, max_size=6), (2, 4, 6)),
        # One node with GPUs: the number of GPUs is the limit.
        (96, Pool(num_cpus=1, num_gpus=0.5), (1, 1, float("inf"))),
    ],
)
def test_pools_are_sized_by_the_available_resources(monkeypatch, cpus, pool, sizes):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus)})
    strategy = cluster.pool_options(pool)["compute"]
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == sizes


def test_a_cluster_that_was_joined_may_grow(monkeypatch):
    """A head with two CPUs does not show which nodes the autoscaler will add."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster.pool_options(Pool())["compute"].max_size == float("inf")
    assert cluster.pool_options(Pool(max_size=5))["compute"].max_size == 5


def test_enough_batches_wait_at_an_actor_for_ray_to_add_another(local_ray):
    options = cluster.pool_options(Pool())["compute"]
    threshold = ray.data.DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold
    assert options.max_tasks_in_flight_per_actor > threshold


def test_an_initial_size_lies_between_the_others():
    with pytest.raises(UsageError, match="initial_size 5 is not between"):
        config.build({"dbcnn": {"initial_size": 5, "max_size": 4}})
    with pytest.raises(UsageError, match="initial_size 1 is not between"):
        config.build({"dbcnn": {"initial_size": 1, "min_size": 2}})


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1, 1), (2.5, 2)])
def test_a_model_runs_one_thread_per_whole_cpu(cpus, threads, monkeypatch):
    seen = []

    class Watched(DropoutDistances):
        def __call__(self, faces):
            seen.append(torch.get_num_threads())
            return super().__call__(faces)

    monkeypatch.setattr(scores, "DropoutDistances", Watched)
    before = torch.get_num_threads()
    settings = config.build({"serfiq": {"num_cpus": cpus}})
    face = pa.table({"status": pa.nulls(1, pa.string()), "aligned": [bytes(range(256)) * 147]})
    ScoreFiq(settings, choose(settings))(face)
    assert seen == [threads] and torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cards", "asked", "left"),
    [
        (1, {}, (0.5, 0.5)),
        (1, {"find_face": {"num_gpus": 0.2}}, (0.4, 0.4)),
        (1, {"find_face": {"num_gpus": 1}}, (0, 0)),
        (2, {"find_face": {"num_gpus": 1}}, (0.5, 0.5)),
        (1, {"serfiq": {"num_gpus": 0.7}}, (0.7, 0.3)),
        (8, {"serfiq": {"num_gpus": 0.7}}, (0.7, 0.5)),
        (1, {"serfiq": {"min_size": 3}}, (0.25, 0.25)),
    ],
)
def test_pools_share_the_remaining_gpus(cards, asked, left):
    """If no GPU is left, they stay on the CPU."""
    chosen = on_gpus(config.build(asked), cards)
    assert (chosen.serfiq.num_gpus, chosen.dbcnn.num_gpus) == pytest.approx(left)


@pytest.mark.parametrize(
    ("cpus", "asked", "processes"),
    [
        (2, {}, 2),
        (16, {}, 16),
        (2, {"read": {"num_cpus": 1}}, 1),
        (4, {"read": {"num_cpus": 2}}, 2),
        (2, {"preset": "cafi", "serfiq": {"mini_batch": 2}, "dbcnn": {"device": "cpu"}}, 2),
        (8, {"dbcnn": {"max_size": 2}}, None),
        (8, {"find_face": {"batch_size": 8}}, None),
        (8, {"serfiq": {"num_gpus": 0.5}}, None),
    ],
)
def test_each_cpu_of_one_machine_runs_all_stages_unless_they_have_resources(cpus, asked, processes):
    chosen = config.build(asked)
    pool = shared_pool(chosen, cpus)
    assert (pool.first_size if pool else None) == processes
    if pool:
        assert pool.max_size == processes
        assert sum(each.count * each.cpus for each in requests(chosen, pool)) <= cpus


def test_stages_that_do_not_fit_are_refused_before_they_wait(monkeypatch):
    """find_face on a GPU counts together with the pools, which share this GPU on a single machine."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    cluster._check_room(on_gpus(config.build({"find_face": {"num_gpus": 0.2}}), 1))
    with pytest.raises(UsageError, match=r"at least 1.5 GPUs, the machine has 1: lower num_cpus, num_gpus"):
        cluster._check_room(config.build({"find_face": {"num_gpus": 1}, "dbcnn": {"num_gpus": 0.5}}))


def test_a_cluster_whose_token_is_missing_here_is_wrong_usage_in_one_line(tmp_path, photos):
    there = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "faceq", "score", str(photos / "t1.jpg")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "t")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **there},
    )
    assert done.returncode == 2
    assert "this machine has no token" in done.stderr.strip().splitlines()[-1]


def test_only_processes_that_score_faces_import_torch(photos):
    """Importing torch would cost each of the others a second and 120 MB. The job's own process imports
    Ray Data while Ray starts, and other large libraries with it."""
    code = (
        "import sys, faceq.job.pipeline\n"
        "print({'torch', 'ray.data', 'cv2', 'onnx', 'onnxruntime'} & sys.modules.keys())\n"
        "import faceq.job.graph\n"
        "from faceq import config; from faceq.stages import find_face; from faceq.sources import frame\n"
        "from faceq.stages.chosen_models import choose\nsettings = config.build({})\n"
        f"image = open({str(photos / 't1.jpg')!r}, 'rb').read()\n"
        "batch = frame.to_table([frame.Frame('t1.jpg', None, 0, image)])\n"
        "print(find_face.FindFace(settings, choose(settings))(batch)['n_faces'][0], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "6", "False"]

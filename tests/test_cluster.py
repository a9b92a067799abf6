"""How large pools may get, and how many threads their models run."""

import pytest
import ray
import torch

from faceq import cluster, config
from faceq.config import Pool
from faceq.errors import UsageError
from faceq.stages import ScoreFiq


@pytest.mark.parametrize(
    ("resources", "pool", "sizes"),
    [
        # A laptop: a share for the tasks that feed two pools of one actor each.
        ({"CPU": 2}, Pool(), (1, 1, 1)),
        ({"CPU": 16}, Pool(), (1, 1, 8)),
        # One node with eight cards, which two pools share.
        ({"CPU": 96, "GPU": 8}, Pool(num_cpus=1, num_gpus=0.5), (1, 1, 16)),
        ({"CPU": 96, "GPU": 8}, Pool(num_gpus=0.5, min_size=2, initial_size=4, max_size=6), (2, 4, 6)),
        ({"CPU": 2}, Pool(initial_size=3), (1, 3, 3)),
    ],
)
def test_pools_are_sized_from_what_is_there(monkeypatch, resources, pool, sizes):
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(cluster.state, "get_max_resources_from_cluster_config", lambda: None)
    strategy = cluster.pool_options(pool)["compute"]
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == sizes


def test_a_cluster_that_grows_is_taken_at_its_largest(monkeypatch):
    """The head has no GPU when the job starts; the autoscaler may bring eight."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(
        cluster.state, "get_max_resources_from_cluster_config", lambda: {"CPU": 642, "GPU": 8}
    )
    assert cluster.pool_options(Pool(num_gpus=0.5))["compute"].max_size == 16
    assert cluster.pool_options(Pool())["compute"].max_size == 321


def test_without_an_autoscaler_ray_knows_of_no_growth(local_ray):
    assert cluster.pool_options(Pool())["compute"].max_size == 1


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
def test_a_model_runs_as_many_threads_as_it_has_whole_cpus(cpus, threads):
    before = torch.get_num_threads()
    try:
        ScoreFiq(config.build({"serfiq": {"num_cpus": cpus}}))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

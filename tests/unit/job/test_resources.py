"""Checks whether the nodes of a cluster can run the stages of a job."""

import pytest

from faceq import config
from faceq.job import resources
from faceq.job.resources import Machine
from faceq.stages.placement import requests

CARDS = {"num_gpus": 0.5, "device": "cpu"}


@pytest.mark.parametrize(
    ("asked", "machines", "lacking"),
    [
        ({}, [Machine(2)], None),
        ({}, [Machine(1), Machine(1)], None),
        ({}, [Machine(1)], "the stages request at least 1.5 CPUs, the machine has 1"),
        ({}, [], "each process of serfiq requests 0.5 CPUs, and the cluster has no machine"),
        ({"serfiq": CARDS}, [Machine(8), Machine(4, 1)], None),
        (
            {"serfiq": CARDS},
            [Machine(2), Machine(8)],
            "each process of serfiq requests 0.5 CPUs and 0.5 GPUs, and the cluster's largest machine "
            "has 8 CPUs and 0 GPUs: without GPUs, leave out num_gpus",
        ),
        # The total is enough, but an actor cannot span two nodes.
        ({"dbcnn": {"num_cpus": 3}}, [Machine(2), Machine(2)], "each process of dbcnn requests 3 CPUs"),
        (
            {"serfiq": {**CARDS, "min_size": 3}, "dbcnn": {**CARDS, "min_size": 2}},
            [Machine(8, 1), Machine(8, 1)],
            "the stages request at least 2.5 GPUs, 2 machines have 2",
        ),
    ],
)
def test_resources_that_no_node_has_are_named(asked, machines, lacking):
    found = resources.shortage(requests(config.build(asked)), machines)
    assert found is None if lacking is None else (found or "").startswith(lacking)

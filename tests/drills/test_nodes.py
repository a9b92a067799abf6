"""Three nodes on one machine: stages run on nodes that have their resources, and the table is the same."""

import functools

import numpy as np
import pytest
import ray
from clusters import gpus_of, nodes_of, trace_stages, write_input
from here import score_here
from ray.cluster_utils import Cluster

from faceq import config
from faceq.job import graph, pipeline, tasks
from faceq.stages.find_face import FindFace
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

pytestmark = pytest.mark.alone  # a process can have only one Ray, and the other tests share another one
VALUES = [name for name in SCHEMA.names if name != "run_id"]
EXACT = ["frame_id", "status", "error", "n_faces", "width", "height"]
FRAMES = 120


@pytest.fixture
def nodes(aws):
    """A head without CPUs, a node for decoding, and a node with a GPU and two CPUs for its pools."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    names = {"decoding": cluster.add_node(num_cpus=2), "gpu": cluster.add_node(num_cpus=1, num_gpus=1)}
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    yield {name: node.node_id for name, node in names.items()}
    ray.shutdown()
    cluster.shutdown()


def test_stages_run_on_the_nodes_with_their_resources(nodes, tmp_path, astronaut, monkeypatch):
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    trace_stages(monkeypatch, tmp_path / "trace")
    pool = {"num_cpus": 0.5, "num_gpus": 0.5, "device": "cpu"}
    chosen = config.build({"input": str(shards), "out": str(tmp_path / "t"), "serfiq": pool, "dbcnn": pool})
    done = pipeline.score(chosen)
    assert done.run.rows == FRAMES and done.run.counts["unreadable"] == FRAMES // 10
    assert nodes_of(tmp_path / "trace", "serfiq") == nodes_of(tmp_path / "trace", "dbcnn") == {nodes["gpu"]}
    assert nodes_of(tmp_path / "trace", "find_face") == {nodes["decoding"]}
    # The two pools share the one GPU of the node by halves. Decoding uses no GPU.
    assert gpus_of(tmp_path / "trace", "serfiq") == gpus_of(tmp_path / "trace", "dbcnn") == {"0"}
    assert gpus_of(tmp_path / "trace", "find_face") == set()
    # Rows do not depend on the node that computed them.
    monkeypatch.undo()
    ray.shutdown()
    alone = config.build({"input": str(shards), "out": str(tmp_path / "alone")})
    pipeline.score(alone)
    one, other = (Table(each.out, each.s3).rows(VALUES).sort_by("frame_id") for each in (chosen, alone))
    assert one.to_pylist() == other.to_pylist()


def test_three_stages_share_a_gpu(nodes, tmp_path, astronaut, monkeypatch):
    """find_face has many frames in work at the same time, as on a real GPU: the rows are the same."""
    shards = write_input(tmp_path / "in", astronaut, FRAMES)
    trace_stages(monkeypatch, tmp_path / "trace")
    traced = graph.FindFaceActor

    class Batched(traced):
        def __init__(self, census, config, models):
            tasks._loaded = functools.cache(functools.partial(FindFace, batched=True))
            super().__init__(census, config, models)

    monkeypatch.setattr(graph, "FindFaceActor", Batched)
    share = {"num_cpus": 0.25, "num_gpus": 0.3, "device": "cpu", "mini_batch": 8}
    stages = ("find_face", "serfiq", "dbcnn")
    chosen = config.build({"input": str(shards), "out": str(tmp_path / "t"), **dict.fromkeys(stages, share)})
    done = pipeline.score(chosen)
    assert done.run.rows == FRAMES and done.run.counts["unreadable"] == FRAMES // 10
    for stage in stages:
        assert nodes_of(tmp_path / "trace", stage) == {nodes["gpu"]}
        assert gpus_of(tmp_path / "trace", stage) == {"0"}
    alone = score_here(str(shards), str(tmp_path / "alone"))
    one, other = (
        Table(path, chosen.s3).rows(VALUES).sort_by("frame_id").to_pylist() for path in (chosen.out, alone)
    )
    for row, expected in zip(one, other, strict=True):
        assert [row[name] for name in EXACT] == [expected[name] for name in EXACT]
        if row["landmarks"]:
            assert np.allclose(row["landmarks"], expected["landmarks"], atol=1e-3)
            assert row["serfiq"] == pytest.approx(expected["serfiq"], abs=1e-3)

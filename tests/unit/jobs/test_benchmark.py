"""The benchmark's frames and figures. The tests of the pipeline run its job."""

import stat

import numpy as np
import pytest
import ray

from faceq import config
from faceq.faces import region
from faceq.job import graph
from faceq.sources.decode.image import decode
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.table.schema import pending
from faceq.table.store import Table
from jobs.benchmarks import gpu_load, loops, measure_scale, throughput


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> config.Config:
    folder = throughput.write_frames(tmp_path_factory.mktemp("benchmark") / "in", 40)
    return config.build({"input": folder, "fiq_threshold": 0, "limit": 36})


def test_its_frames_have_384_pixels_and_are_all_different(frames):
    tables = list(loops.tables_of(frames))
    images = [image for table in tables for image in table["image"].to_pylist()]
    assert len(images) == len(set(images)) == 36
    assert {decode(image, 1_000_000).shape for image in images} == {(384, 384, 3)}
    found = FindFace(frames, choose(frames))(tables[0])
    assert len(pending(found)) == len(tables[0])


def test_the_bare_loop_scores_every_frame_and_reports_the_cost_of_each_stage(frames):
    few = frames.model_copy(update={"limit": 8})
    found = loops.bare(few)
    assert found["frames"] == 8 and found["rate"] > 0
    assert list(found["cpu_ms"]) == ["FindFace", "ScoreFiq", "ScoreQuality"]
    assert min(found["cpu_ms"].values()) > 0


def test_cafi_blacks_out_all_but_the_face_at_its_own_size():
    picture = np.full((200, 300, 3), 90, np.uint8)
    outline = np.array([(100, 50), (200, 50), (200, 150), (100, 150)])
    black = region.blacked_out(picture, outline)
    assert black.shape == (384, 384, 3)
    share = np.count_nonzero(black[..., 0]) / black[..., 0].size
    assert share == pytest.approx(101 * 101 / (200 * 300), rel=0.05)


def test_a_run_with_stand_ins_writes_every_row_and_reports_its_memory(local_ray, tmp_path, monkeypatch):
    for name in ("find_face", "FiqStage", "QualityStage"):
        monkeypatch.setattr(graph, name, getattr(graph, name))  # restored at the end
    given = measure_scale._write_numbers(tmp_path / "in", 70)
    settings = config.build({"input": [given], "out": str(tmp_path / "table")})
    found = measure_scale._with_stand_ins(settings)
    assert found["frames"] == 70 and found["seconds"] > 0
    assert found["driver"] > 50e6 and found["spilled"] == 0
    rows = Table(settings.out, settings.s3).rows(["status", "dbcnn", "frame_id"])
    assert rows["status"].to_pylist() == ["scored"] * 70
    assert len(set(rows["frame_id"].to_pylist())) == len(set(rows["dbcnn"].to_pylist())) == 70


def test_the_gpu_load_of_a_node_is_that_of_nvidia_smi(local_ray, tmp_path, monkeypatch):
    """Uses a stand-in for the command, because the test machine may have no GPU."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho '80, 1000'; echo '40, 3000'; sleep 600\n")
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(gpu_load, "QUERY", [str(command)])
    (node,) = ray.nodes()
    with_a_card = {**node, "Resources": {**node["Resources"], "GPU": 2}}
    monkeypatch.setattr(ray, "nodes", lambda: [with_a_card])
    with gpu_load.GpuLoad() as load:
        while not load.mean():
            pass
    assert load.mean() == {node["NodeID"]: {"load": 60.0, "memory_mb": 3000.0}}

"""The benchmark's frames, limit, steps and figures."""

import collections
import math
import stat
import threading
import time
from typing import Any

import numpy as np
import pytest
import ray

from faceq import config
from faceq.faces import geometry, landmarks, region
from faceq.faces.search import NetworkCall, run
from faceq.job import graph
from faceq.runtime import device
from faceq.sources.decode import image
from faceq.sources.frame import to_table
from faceq.stage_resources import Pool
from faceq.stages import find_face
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from faceq.table.schema import pending
from faceq.table.store import Table
from jobs.benchmarks import comparison, gpu_load, inputs, job, limit, measure_scale, steps, workloads


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> config.Config:
    folder = workloads.write_frames(tmp_path_factory.mktemp("benchmark") / "in", 40, each=10)
    return config.build({"input": folder, "fiq_threshold": 0})


def _images(settings: config.Config) -> list[bytes]:
    return [frame.image for frame in inputs.frames_of(settings, inputs.shards_of(settings), None)]


# --- workloads -----------------------------------------------------------------------------------


def test_frames_have_384_pixels_and_are_all_different(frames):
    images = _images(frames)
    assert len(images) == len(set(images)) == 40
    assert {image.decode(each, 1_000_000).shape for each in images} == {(384, 384, 3)}


@pytest.mark.parametrize(
    ("name", "size", "heights"),
    [
        ("frames", (384, 384), (130, 210)),
        ("video", (1920, 1080), (180, 400)),
        ("portraits", (1024, 1024), (380, 680)),
    ],
)
def test_every_frame_of_a_workload_has_one_face_of_its_size(name, size, heights, tmp_path):
    folder = workloads.write(workloads.WORKLOADS[name], tmp_path / name, 8)
    settings = config.build({"input": folder, "fiq_threshold": 0})
    shards = inputs.shards_of(settings)
    table = to_table(inputs.frames_of(settings, shards, None))
    assert len(table) == 8 and len(shards) == device.usable_cpus()
    found = FindFace(settings, choose(settings))(table)
    assert len(pending(found)) == 8
    assert set(zip(found["width"].to_pylist(), found["height"].to_pylist(), strict=True)) == {size}
    assert heights[0] < min(found["face_h"].to_pylist()) <= max(found["face_h"].to_pylist()) < heights[1]


def test_the_shards_of_a_workload_are_equally_long_and_as_many_for_each_core(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "usable_cpus", lambda: 3)
    folder = workloads.write(workloads.WORKLOADS["frames"], tmp_path / "in", 400)
    settings = config.build({"input": folder})
    frames = inputs.frames_of(settings, inputs.shards_of(settings), None)
    counts = collections.Counter(frame.source for frame in frames)
    assert len(counts) == 6 and set(counts.values()) == {66}


# --- limit ---------------------------------------------------------------------------------------


def test_the_limit_scores_every_frame_in_a_process_per_core_and_reports_each_step(frames):
    found = limit.measure(frames.model_copy(update={"limit": 2 * device.usable_cpus()}))
    assert found["processes"] == device.usable_cpus()
    assert found["frames"] == 2 * device.usable_cpus() and found["rate"] > 0
    expected = {steps.READ, steps.FIND_FACE, *steps.STEPS, "serfiq", "dbcnn", steps.ROWS}
    assert set(found["cpu_ms"]) == expected
    assert min(found["cpu_ms"].values()) > 0
    sums = comparison.with_sums(found["cpu_ms"])
    parts = ("read", "find_face", "serfiq", "dbcnn", "rows")
    assert sums["all"] == pytest.approx(sum(sums[name] for name in parts))


def test_a_process_of_the_limit_that_fails_is_reported_while_the_others_wait_for_it(frames, tmp_path):
    detector = tmp_path / "detector.onnx"
    detector.write_bytes(b"no model")
    settings = frames.model_copy(update={"models": config.Models(detector=str(detector))})
    with pytest.raises(Exception, match="is not an ONNX file"):
        limit.measure(settings)


def test_shares_hold_the_same_number_of_bytes_and_each_shard_once(frames, monkeypatch):
    monkeypatch.setattr(device, "usable_cpus", lambda: 2)
    monkeypatch.setattr(limit.os, "sched_getaffinity", lambda _: {5, 3, 9}, raising=False)
    shares = limit.shares_of(frames.model_copy(update={"limit": 30}), tuple(limit.STAGES))
    assert [(share.core, share.most, len(share.shards)) for share in shares] == [(3, 15, 2), (5, 15, 2)]
    assert len({shard.source for share in shares for shard in share.shards}) == 4
    sizes = [sum(shard.size for shard in share.shards) for share in shares]
    assert max(sizes) < 1.1 * min(sizes)
    wide = config.build({"input": frames.input, "serfiq": {"num_cpus": 4, "mini_batch": 16}})
    (share, _) = limit.shares_of(wide, tuple(limit.STAGES))
    assert (share.settings.serfiq.threads, share.settings.serfiq.mini_batch, share.most) == (1, 16, None)


def test_stages_from_the_first_one_on_a_gpu_belong_to_the_gpu():
    def parts(**stages: dict[str, Any]) -> Any:
        return limit.split(config.build(stages))

    on_card = {"device": "cuda"}
    assert parts() == (("find_face", "serfiq", "dbcnn"), ())
    assert parts(serfiq=on_card, dbcnn=on_card) == (("find_face",), ("serfiq", "dbcnn"))
    assert parts(find_face=on_card) == ((), ("find_face", "serfiq", "dbcnn"))


def test_the_limit_of_a_machine_with_gpus_is_the_lower_rate_of_cores_and_gpus(frames, monkeypatch):
    """Runs the stages of the GPU on the CPU, because the test machine may have no GPU."""
    monkeypatch.setattr(limit, "GPU_S", 0)
    monkeypatch.setattr(limit, "GPU_FRAMES", 4)
    gpu = limit.rate_of_gpu(frames, ("find_face",), ("serfiq", "dbcnn"))
    assert gpu["rate"] > 0 and list(gpu["gpu_ms"]) == ["serfiq", "dbcnn"]
    assert sum(gpu["gpu_ms"].values()) <= 1000 / gpu["rate"]
    monkeypatch.setattr(limit.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(limit, "rate_of_gpu", lambda *_: {"rate": 30.0, "gpu_ms": {}})
    on_card = frames.model_copy(update={"dbcnn": Pool(device="cuda")})
    for cores, least in ((50.0, 50.0), (70.0, 60.0)):
        monkeypatch.setattr(limit, "rate_of_cores", lambda *_, rate=cores: {"rate": rate, "cpu_ms": {}})
        found = limit.measure(on_card)
        assert (found["rate"], found["cpu_rate"], found["gpu_rate"]) == (least, cores, 60.0)


def test_if_all_stages_run_on_gpus_the_cores_read_and_decode(frames):
    decode = limit._decoded(frames)
    batch = to_table(inputs.frames_of(frames, inputs.shards_of(frames), 2))
    assert "image" not in decode(batch).column_names
    clock = steps.StepClock()
    tables = limit._finished(frames, {}, inputs.frames_of(frames, inputs.shards_of(frames), 3), clock)
    assert sum(map(len, tables)) == 3


# --- steps ---------------------------------------------------------------------------------------


def test_all_cpu_time_belongs_to_exactly_one_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(steps.time, "process_time", lambda: now[0])
    clock = steps.StepClock()

    def work(seconds: float) -> None:
        now[0] += seconds

    def search():
        work(1)
        (answer,) = yield [NetworkCall(lambda _: work(2) or 7, np.empty(0))]
        work(4)
        return answer

    inner = clock.timed("inner", work)
    timed_search = clock.timed("search", search)

    def outer() -> int:
        work(8)
        inner(16)
        found = run(timed_search())
        work(32)
        return found

    assert clock.timed("outer", outer)() == 7
    work(64)
    clock.stop()
    assert clock.seconds == {"rows": 64.0, "outer": 40.0, "inner": 16.0, "search": 7.0}


def test_the_steps_of_find_face_are_seen_and_the_stages_are_the_same_afterwards(frames):
    before = find_face.decode, geometry.crop, geometry.align, find_face.detect.load
    clock = steps.StepClock()
    batch = to_table(inputs.frames_of(frames, inputs.shards_of(frames), 2))
    expected = FindFace(frames, choose(frames))(batch)
    with steps.measured(clock):
        assert FindFace(frames, choose(frames))(batch).equals(expected)
    assert clock.calls["decode"] == 2 and clock.calls["detection"] >= 2
    assert clock.calls["landmarks"] >= 2 * (1 + 1 + landmarks.PASSES)  # with the calls of the network
    steps.check_calls(clock)
    assert (find_face.decode, geometry.crop, geometry.align, find_face.detect.load) == before


def test_a_step_that_is_no_longer_found_or_called_is_an_error(monkeypatch):
    clock = steps.StepClock()
    with pytest.raises(RuntimeError, match="without a call that counts as decode, detection"):
        steps.check_calls(clock)
    monkeypatch.setattr(steps, "FUNCTIONS", (("crops", geometry, "cropped"),))
    with pytest.raises(RuntimeError, match=r"geometry\.cropped does not exist"), steps.measured(clock):
        pass


def test_a_step_in_another_thread_is_an_error():
    clock, caught = steps.StepClock(), []

    def other() -> None:
        try:
            clock.timed("decode", int)()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "another thread" in caught[0]


# --- job and figures -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data logs all of its settings
def test_the_job_reports_its_start_up_and_the_part_of_ray(light_job, frames, tmp_path):
    found = job.run(frames.model_copy(update={"out": str(tmp_path / "table")}))
    assert found["frames"] == 40 and found["rate"] > 0 and found["gpus"] == {}
    assert 0 <= found["ray_s"] < found["start_up"]


def test_the_rate_of_the_job_is_that_of_the_additional_frames():
    short = {"frames": 100, "seconds": 12.0, "start_up": 9.0, "ray_s": 3.0, "rate": 25.0}
    long = {"frames": 400, "seconds": 27.0, "start_up": 11.0, "ray_s": 4.0, "rate": 22.0}
    found = comparison.difference(short, long)
    assert (found["rate"], found["start_up"], found["ray_s"], found["frames"]) == (20.0, 10.0, 3.5, 400)
    assert math.isnan(comparison.difference(short, {**long, "seconds": 11.0})["rate"])


def test_the_tables_show_limit_job_ratio_and_the_time_of_each_step(capsys):
    job_figures = {"frames": 900, "rate": 36.0, "start_up": 8.0, "ray_s": 3.0, "peak_mb": 2500.0, "gpus": {}}
    cpu_ms = {"read": 1.0, "decode": 2.0, "find_face": 3.0, "rows": 0.5}
    limits = {"frames": 900, "rate": 40.0, "start_up": 5.0, "peak_mb": 1000.0, "cpu_ms": cpu_ms}
    with_gpu = {**limits, "gpu_ms": {"serfiq": 0.25}}
    comparison.show(
        {"JPEG": {"limit": limits, "job": job_figures}, "video": {"limit": with_gpu, "job": job_figures}}
    )
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["JPEG", "limit", "900", "40.00", "1.000", "5.0", "1,000"] in shown
    assert ["job", "900", "36.00", "0.900", "8.0", "3.0", "2,500"] in shown
    assert ["find_face", "5.00", "5.00"] in shown and ["sum", "6.50", "6.50"] in shown
    assert ["serfiq,", "on", "a", "GPU", "0.25"] in shown


def test_the_figures_of_the_limit_are_the_mean_of_both_runs(frames):
    runs = [
        {"frames": 8, "rate": rate, "start_up": 2.0, "peak_mb": 5.0, "cpu_ms": {"read": rate}}
        for rate in (10.0, 30.0)
    ]
    found = comparison._figures(runs, {}, frames, cafi_frames=0)
    assert found["limit"]["rate"] == found["limit"]["cpu_ms"]["read"] == 20.0
    assert found["limit"]["runs"] == runs and "CAFI" not in found


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
    expected = {node["NodeID"]: {"load": 60.0, "memory_mb": 3000.0}}
    with gpu_load.GpuLoad() as load:
        until = time.monotonic() + 60
        while load.mean() != expected and time.monotonic() < until:  # the GPUs are read one after the other
            time.sleep(0.05)
        assert load.mean() == expected

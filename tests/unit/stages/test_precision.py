"""The settings `runtime` and `precision`: what they resolve to, what is refused, and what a table records."""

import platform

import pytest
import ray
from model_files import dbcnn

import faceq
from faceq import config
from faceq.cli import main
from faceq.errors import DeviceError, UsageError
from faceq.runtime import device, numerics, openvino_runtime
from faceq.stages import placement, precision
from faceq.stages.chosen_models import choose, comparison_record
from faceq.stages.scores import ScoreFiq, ScoreQuality, check_own_models
from faceq.storage.settings import S3Settings
from faceq.table import comparable
from faceq.table.runs import Run
from faceq.table.store import Table

GPU = {"serfiq": {"num_gpus": 0.5}, "dbcnn": {"num_gpus": 0.5}}
AMX = {"has_fast_bf16": True, "has_openvino": True}


@pytest.fixture
def machine(monkeypatch):
    """Sets what this machine has. By default OpenVINO can compute in any precision."""

    def has(has_fast_bf16: bool, has_openvino: bool) -> None:
        monkeypatch.setattr(precision, "has_fast_bf16", lambda: has_fast_bf16)
        monkeypatch.setattr(precision, "has_openvino", lambda: has_openvino)

    monkeypatch.setattr(openvino_runtime, "check", lambda wanted: None)
    return has


@pytest.mark.parametrize(
    ("settings", "there", "serfiq", "dbcnn"),
    [
        ({}, AMX, "f32 onnxruntime", "f32 onnxruntime"),
        ({"precision": "f32"}, AMX, "f32 onnxruntime", "f32 onnxruntime"),
        ({"runtime": "openvino"}, AMX, "f32 openvino", "f32 openvino"),
        ({"precision": "bf16"}, AMX, "bf16 openvino", "bf16 openvino"),
        ({"precision": "auto"}, AMX, "bf16 openvino", "bf16 openvino"),
        ({"precision": "auto"}, {**AMX, "has_openvino": False}, "f32 onnxruntime", "f32 onnxruntime"),
        ({"precision": "auto"}, {**AMX, "has_fast_bf16": False}, "f32 onnxruntime", "f32 onnxruntime"),
        ({"precision": "auto", "runtime": "onnxruntime"}, AMX, "f32 onnxruntime", "f32 onnxruntime"),
        ({"precision": "auto", "preset": "cafi"}, AMX, "f32 onnxruntime", "f32 onnxruntime"),
        (GPU, AMX, "f32 onnxruntime", "fp16 onnxruntime"),
        ({**GPU, "precision": "auto"}, AMX, "f32 onnxruntime", "fp16 onnxruntime"),
        ({**GPU, "precision": "fp16"}, AMX, "f32 onnxruntime", "fp16 onnxruntime"),
        ({**GPU, "precision": "f32"}, AMX, "f32 onnxruntime", "f32 onnxruntime"),
        ({"dbcnn": {"num_gpus": 1}, "precision": "auto"}, AMX, "bf16 openvino", "fp16 onnxruntime"),
    ],
)
def test_each_score_has_a_precision_and_a_runtime(machine, settings, there, serfiq, dbcnn):
    machine(**there)
    found = precision.resolve(config.build(settings), here=True)
    assert {name: f"{each.precision} {each.runtime}" for name, each in found._asdict().items()} == {
        "serfiq": serfiq,
        "dbcnn": dbcnn,
    }


def test_automatic_precision_does_not_depend_on_the_machine_that_submits_a_job_to_a_cluster(machine):
    machine(**AMX)
    found = precision.resolve(config.build({"precision": "auto"}), here=False)
    assert {each.precision for each in found} == {"f32"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "f16"}, r"precision: .*'auto', 'f32', 'bf16' or 'fp16'"),
        ({"precision": "bf16", "runtime": "onnxruntime"}, "set runtime to openvino for bf16, or precision"),
        ({"precision": "fp16"}, "fp16 is for GPUs, and dbcnn runs on CPUs: set precision to f32, bf16 or"),
        (
            {**GPU, "precision": "bf16"},
            "serfiq runs on a GPU: set precision to fp16, or serfiq.device to cpu",
        ),
        ({"precision": "bf16", "preset": "cafi"}, "dbcnn-koniq: published DB-CNN has no bf16 on CPUs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(machine, settings, message):
    machine(**AMX)
    with pytest.raises(UsageError, match=message):
        choose(config.build(settings))


def test_a_published_dbcnn_of_ones_own_is_refused_in_bf16_before_the_job(machine, tmp_path):
    settings = config.build({"precision": "bf16", "models": {"quality": str(dbcnn(tmp_path / "own.pth"))}})
    models = choose(settings)  # does not open the file
    with pytest.raises(UsageError, match=r"own\.pth: published DB-CNN has no bf16 on CPUs"):
        check_own_models(settings, models)
    with pytest.raises(UsageError, match="published DB-CNN"):
        ScoreQuality(settings, models)


@pytest.mark.parametrize("settings", [{"runtime": "openvino"}, {"precision": "bf16"}])
def test_without_openvino_nothing_is_scored_in_another_way(monkeypatch, settings, tmp_path, photos, capsys):
    monkeypatch.setattr(openvino_runtime, "has_openvino", lambda: False)
    install = r'OpenVINO is not installed on this machine \(.+\): run `pip install "faceq\[openvino\]"`'
    with pytest.raises(DeviceError, match=install):
        faceq.Scorer(**settings)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the job would start a Ray on this machine
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    assert main.main(["score", str(photos / "t1.jpg"), "--out", str(tmp_path / "t"), *flags]) == 2
    assert "OpenVINO is not installed" in capsys.readouterr().err and not (tmp_path / "t").exists()


def test_a_worker_of_a_cluster_that_lacks_openvino_names_itself(monkeypatch):
    monkeypatch.setattr(openvino_runtime, "has_openvino", lambda: False)
    settings = config.build({"precision": "bf16"})
    models = choose(settings, here=False)  # the submitting machine needs no OpenVINO
    for stage in (ScoreFiq, ScoreQuality):
        with pytest.raises(DeviceError, match=f"not installed on this machine .{platform.node()}.: run"):
            stage(settings, models)


def test_a_cpu_without_bf16_is_an_error(monkeypatch):
    monkeypatch.setattr(openvino_runtime, "has_openvino", lambda: True)
    monkeypatch.setattr(openvino_runtime, "supports_bf16", lambda: False)
    openvino_runtime.check("f32")
    with pytest.raises(DeviceError, match=r"cannot compute in bf16 .*: set precision to f32"):
        choose(config.build({"precision": "bf16"}))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("avx2 avx512f", False),
        ("avx512_bf16 clzero", True),
        ("amx_tile amx_bf16 amx_int8", True),
        (None, False),
    ],
)
def test_fast_bf16_is_recognised_by_the_flags_of_the_cpu(monkeypatch, tmp_path, flags, fast):
    """Without such a list, as on macOS, it is assumed to be missing."""
    if flags:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(numerics, "_CPU_FLAGS", tmp_path / "cpuinfo")
    assert numerics.has_fast_bf16() == fast


def record(**values) -> dict:
    settings = config.build(values)
    return comparison_record(settings, choose(settings))


def test_a_table_keeps_the_precision_and_not_the_runtime(machine):
    """Scores in f32 of both runtimes differ only in their last bits, as do those of CPUs and GPUs."""
    machine(**AMX)
    plain = record()
    assert plain == record(runtime="openvino") == record(precision="f32")
    assert record(precision="auto")["precision"] == {"serfiq": "bf16", "dbcnn": "bf16"}
    difference = r'precision\.dbcnn was "f32", is now "bf16"; precision\.serfiq was "f32", is now "bf16"'
    with pytest.raises(UsageError, match=difference):
        comparable.check("table", plain, record(precision="bf16"))
    before = {key: value for key, value in plain.items() if key != "precision"}
    comparable.check("table", before, plain)
    with pytest.raises(UsageError, match=difference):
        comparable.check("table", before, record(precision="bf16"))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_job_in_bf16_does_not_continue_a_table_in_f32(machine, tmp_path, photos, capsys, more):
    Table(str(tmp_path), S3Settings()).save(Run("1", "0", [], record(), {}, "", "", state="ended"))
    command = ["score", str(photos / "t1.jpg"), "--out", str(tmp_path), "--set=precision=bf16", *more]
    assert main.main(command) == 2
    assert 'precision.dbcnn was "f32", is now "bf16"' in capsys.readouterr().err


def test_a_gpu_of_this_machine_counts_before_the_table_is_compared(monkeypatch):
    """DB-CNN then runs in fp16, whatever Ray sees later."""
    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setattr(device, "missing", lambda: None)
    placed = placement.on_this_machine(config.build({}))
    assert placed.dbcnn.runs_on == "cuda" and record(**placed.model_dump())["precision"]["dbcnn"] == "fp16"
    monkeypatch.setattr(device, "missing", lambda: "a reason")
    assert placement.on_this_machine(config.build({})) == config.build({})

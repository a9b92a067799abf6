"""The GPU code: compared with the CPU code on CPU tensors, run on a GPU if there is one, and refused without
one."""

import os
import re
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from model_files import arcface, dbcnn, heavy_tailed, landmarks_106
from places import ROOT, SHARED

import faceq
from faceq import config
from faceq.errors import UsageError
from faceq.faces import geometry
from faceq.faces.detect import Face, YuNet
from faceq.fiq.distances import CUDA_TOLERANCE, DropoutDistances
from faceq.fiq.serfiq import score
from faceq.iqa import checkpoint, scorer, torch_quality
from faceq.iqa.torch_quality import HALF_TOLERANCE, TorchQuality
from faceq.job import cluster
from faceq.models import zoo
from faceq.models.fetch import fetch
from faceq.runtime import device, onnx_runtime
from faceq.runtime.minibatch import OomSafeBatcher, to_device
from faceq.sources.frame import Frame, to_table
from faceq.stage_resources import Pool
from faceq.stages import find_face
from faceq.stages.chosen_models import choose
from jobs import demo

GPU = device.missing() is None
on_gpu = pytest.mark.skipif(not GPU, reason=f"no GPU that models can run on: {device.missing()}")
without_gpu = pytest.mark.skipif(GPU, reason="there is a GPU")
INSTALL = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


@pytest.fixture(scope="module")
def aligned() -> np.ndarray:
    """The demo's eight faces, (8, 112, 112, 3) uint8 RGB."""

    def largest(faces: list[Face]) -> Face:
        return max(faces, key=lambda face: face.area)

    detector = YuNet(fetch("yunet"), 0.6)
    faces = list(demo.source_faces().values())
    return np.stack([geometry.align(face, largest(detector(face)).landmarks) for face in faces])


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("passes", [None, 20])
@pytest.mark.parametrize("recogniser", ["sface", "arcface"])
def test_distances_on_the_device_are_those_of_the_cpu(aligned, tmp_path, where, passes, recogniser):
    """Features are bound to the output of the session and stay on the device until distances are computed."""
    path, known = fetch("sface"), zoo.recogniser("sface")
    if recogniser == "arcface":
        path, known = arcface(tmp_path / "r.onnx"), zoo.Recogniser(zoo.PUBLISHED, dropout=0.5)
    wanted, embedding = DropoutDistances(path, known, passes, "cpu", 4, 1)(aligned)
    found, bound = DropoutDistances(path, known, passes, where, 8, 1).on_device(aligned)
    assert np.abs(score(found) - score(wanted)).max() < CUDA_TOLERANCE
    assert np.allclose(bound, embedding, rtol=1e-3, atol=1e-3 * np.abs(embedding).max())


@pytest.mark.parametrize("where", DEVICES)
def test_the_closed_forms_gap_is_measured_on_the_device(aligned, tmp_path, where):
    known = zoo.Recogniser(zoo.PUBLISHED, dropout=0.5)
    path = heavy_tailed(tmp_path / "r.onnx")
    wanted = DropoutDistances(path, known, None, "cpu", 4, 1).gap(aligned)
    assert DropoutDistances(path, known, None, where, 8, 1).gap(aligned) == pytest.approx(wanted, abs=1e-3)
    assert DropoutDistances(path, known, 20, where, 8, 1).gap(aligned) is None


@pytest.mark.parametrize("where", DEVICES)
def test_published_dbcnn_in_half_precision_stays_within_the_tolerance(tmp_path, where):
    found = checkpoint.identify(dbcnn(tmp_path / "dbcnn.pth"))
    crops = np.stack([face[::2, ::2] for face in list(demo.source_faces().values())[:4]])
    masks = np.ones(crops.shape[:3], np.float32)
    (single,) = TorchQuality(torch_quality.load(found), "cpu", half=False)(crops, masks)
    (half,) = TorchQuality(torch_quality.load(found, where), where, half=True)(crops, masks)
    assert 0 < np.abs(single - half).max() < HALF_TOLERANCE


@on_gpu
@pytest.mark.parametrize(("precision", "tolerance"), [(None, HALF_TOLERANCE), ("f32", 0.01)])
def test_a_row_from_the_gpu_is_within_the_tolerances_of_the_cpus(precision, tolerance):
    faces = list(demo.source_faces().values())
    rows = {}
    for where in ("cpu", "cuda"):
        pools = {name: {"device": where} for name in ("serfiq", "dbcnn")}
        rows[where] = faceq.score_images(faces, fiq_threshold=0, precision=precision, **pools).to_pylist()
    for one, other in zip(rows["cpu"], rows["cuda"], strict=True):
        assert abs(one["serfiq_raw"] - other["serfiq_raw"]) < CUDA_TOLERANCE
        assert abs(one["dbcnn"] - other["dbcnn"]) < tolerance


def found_by(settings: dict, frames: pa.Table) -> list[dict]:
    """The rows of `find_face` for encoded frames."""
    chosen = config.build(settings)
    return find_face.FindFace(chosen, choose(chosen))(frames).to_pylist()


def assert_same_faces(rows: list[dict], others: list[dict], pixels: float) -> None:
    """The same statuses and numbers of faces, and landmarks that differ by at most so many pixels."""
    for one, other in zip(rows, others, strict=True):
        for name in ("status", "error", "n_faces"):
            assert one[name] == other[name]
        if one["landmarks"]:
            assert np.allclose(one["landmarks"], other["landmarks"], atol=pixels)


@pytest.fixture(scope="module")
def frames(photos) -> pa.Table:
    """The demo's eight faces, three of them rotated, six people, a photo without a face, a damaged file."""
    faces = list(demo.source_faces().values())
    turned = [np.ascontiguousarray(np.rot90(face, turn + 1)) for turn, face in enumerate(faces[:3])]
    images = [demo._jpeg(face) for face in [*faces, *turned]]
    images += [(photos / name).read_bytes() for name in ("t1.jpg", "mask_blue.jpg")]
    return to_table([Frame(str(at), None, 0, image) for at, image in enumerate([*images, images[0][:500]])])


@pytest.fixture
def presets(shared_or_none, tmp_path) -> dict[str, dict]:
    """Settings by detector. SCRFD runs if its file is there."""
    settings: dict[str, dict] = {"yunet": {}}
    if shared_or_none:
        scrfd = str(shared_or_none / "weights" / "scrfd_500m_bnkps.onnx")
        marks = str(landmarks_106(tmp_path / "2d106det.onnx"))
        settings["scrfd"] = {"models": {"detector": scrfd, "landmarks": marks}, "det_threshold": 0.5}
    return settings


@pytest.fixture
def shared_or_none() -> Path | None:
    return SHARED if SHARED.is_dir() else None


@on_gpu
def test_faces_found_on_the_gpu_are_those_of_the_cpu(frames, presets):
    for settings in presets.values():
        rows = found_by({**settings, "find_face": {"device": "cuda", "num_cpus": 2}}, frames)
        assert_same_faces(found_by(settings, frames), rows, pixels=0.1)


@on_gpu
def test_the_rate_of_find_face_on_the_gpu(photos, capsys):
    """No rate is required: the test prints it, to be compared with the CPU's and with capacity.md."""
    images = [demo._jpeg(face) for face in demo.source_faces().values()]
    frames = to_table([Frame(str(at), None, 0, images[at % len(images)]) for at in range(512)])
    cores = device.usable_cpus()
    for name, pool in {"CPU, one thread": {}, "GPU": {"device": "cuda", "num_cpus": cores}}.items():
        chosen = config.build({"find_face": pool})
        stage = find_face.FindFace(chosen, choose(chosen))
        stage(frames.slice(0, 64))
        started = time.perf_counter()
        for at in range(0, len(frames), 128):
            stage(frames.slice(at, 128))
        seconds = time.perf_counter() - started
        with capsys.disabled():
            print(f"\nfind_face on the {name}, {cores} cores: {len(frames) / seconds:.0f} frames/s")


class PretendedCuda(onnxruntime.InferenceSession):
    """A session on the CPU that was asked to be on CUDA. `asked` records the options of the CUDA provider."""

    asked: ClassVar[list[dict]] = []

    def __init__(self, model, options, providers, **more):
        if providers[0] != "CPUExecutionProvider":
            (name, settings), _ = providers
            assert name == "CUDAExecutionProvider"
            self.asked.append(settings)
        super().__init__(model, options, providers=["CPUExecutionProvider"], **more)

    def get_providers(self):
        return ["CUDAExecutionProvider"]


@without_gpu
@pytest.mark.parametrize("detector", ["yunet", "scrfd"])
def test_detector_and_landmarks_are_placed_on_the_gpu(frames, presets, monkeypatch, detector):
    """Both networks request CUDA. The CPU then runs the code for GPUs and gives the same faces."""
    if detector not in presets:
        pytest.skip("there is no file of SCRFD")
    frames = frames.take([0, 9, 11, 12, 13])
    expected = found_by(presets[detector], frames)
    monkeypatch.setattr(find_face, "check_cuda", lambda: None)
    monkeypatch.setattr(device, "check_cuda", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", PretendedCuda)
    PretendedCuda.asked.clear()
    pool = {"num_gpus": 0.2, "num_cpus": 2, "mini_batch": 4}
    found = found_by({**presets[detector], "find_face": pool}, frames)
    # YuNet has a session for each canvas, the others one each.
    assert len(PretendedCuda.asked) >= 2
    assert all(settings["cudnn_conv_algo_search"] == "HEURISTIC" for settings in PretendedCuda.asked)
    assert_same_faces(expected, found, pixels=1e-3)
    assert {row["status"] for row in found} == {None, "no_face", "unreadable"}


@on_gpu
def test_auto_uses_an_available_gpu():
    torch.cuda.reset_peak_memory_stats()
    faceq.score_images(list(demo.source_faces().values())[:1], fiq_threshold=0)
    assert torch.cuda.max_memory_allocated() > 1e6


@on_gpu
def test_running_out_of_gpu_memory_halves_the_mini_batch(tmp_path, caplog):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    network = scorer.on_cuda(checkpoint.identify(dbcnn(tmp_path / "dbcnn.pth")), half=True)
    crops = np.zeros((64, 256, 256, 3), np.uint8)
    torch.cuda.set_per_process_memory_fraction(0.6e9 / total)
    try:
        halving = OomSafeBatcher(network, 64, "dbcnn")
        (scores,) = halving(crops, np.ones(crops.shape[:3], np.float32))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(scores) == 64 and halving.size < 64
    assert "out of GPU memory" in caplog.text


# --- out-of-memory errors of torch and ONNX Runtime ------------------------------------------------


ORT_OUT_OF_MEMORY = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Status Message: bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of "
    "size 411041792"
)
ORT_CUDA_FAILURE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(...) CUDA failure {}; GPU=0 ; hostname=node ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_stream_handle.cc ; line=204 ; "
    "expr=cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);"
)
PROVIDER_OUT_OF_MEMORY = RuntimeError(ORT_CUDA_FAILURE.format("2: out of memory "))
CUBLAS_OUT_OF_MEMORY = RuntimeError(
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
)
TORCH_OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")
OUT_OF_MEMORY = [TORCH_OUT_OF_MEMORY, CUBLAS_OUT_OF_MEMORY, ORT_OUT_OF_MEMORY, PROVIDER_OUT_OF_MEMORY]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_mini_batch_once_and_says_so(error, caplog):
    shown = []

    def model(items):
        shown.append(len(items))
        if len(items) > 4:
            raise error
        return (items * 2.0,)

    halving = OomSafeBatcher(model, 16, "dbcnn")
    for _ in range(2):
        (doubled,) = halving(np.arange(10))
        assert doubled.tolist() == [2.0 * i for i in range(10)]
    assert shown == [16, 8, 4, 4, 4, 4, 4, 4]
    said = [
        re.search(r"dbcnn: out of GPU memory: mini-batches of (\d+)", line)[1] for line in caplog.messages
    ]
    assert said == ["8", "4"]


def test_a_gpu_without_memory_for_one_item_is_an_error_with_a_fix():
    def model(items):
        raise TORCH_OUT_OF_MEMORY

    with pytest.raises(device.DeviceError, match=r"serfiq: one item does not fit .*: CUDA out of .*num_gpus"):
        OomSafeBatcher(model, 4, "serfiq")(np.arange(3))


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_running_out_of_memory_while_a_model_loads_is_not_blamed_on_its_file(error, monkeypatch):
    def made(*arguments, **options):
        raise error

    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    path = fetch("sface")
    with pytest.raises(device.DeviceError, match=r"models do not fit into the GPU memory: .*num_gpus"):
        onnx_runtime.session(path, onnx_runtime.read(path), "cpu", 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PROVIDER_OUT_OF_MEMORY, "models do not fit into the GPU memory"),
        (RuntimeError(ORT_CUDA_FAILURE.format("999: unknown error ")), "CUDA failed .*failure 999.*smi"),
        (RuntimeError("CUDA_PATH is set but CUDA wasnt able to be loaded."), "CUDA failed .*libraries"),
    ],
)
def test_a_failing_gpu_is_an_error_without_fallback_and_not_blamed_on_the_file(
    monkeypatch, capsys, error, said
):
    """ONNX Runtime's own class would create a session on the CPU and only print a message."""
    made = onnxruntime.InferenceSession._create_inference_session

    def on_the_card(self, providers, *more):
        if providers != ["CPUExecutionProvider"]:
            raise error
        made(self, providers, *more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", on_the_card)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    monkeypatch.setattr(device, "check_cuda", lambda: None)
    path = fetch("sface")
    with pytest.raises(device.DeviceError, match=said):
        onnx_runtime.session(path, onnx_runtime.read(path), "cuda", 1)
    assert capsys.readouterr().out == ""


def test_other_errors_are_not_mistaken_for_out_of_memory():
    def model(items):
        raise RuntimeError("out of memory, says something else")

    with pytest.raises(RuntimeError, match="says something else"):
        OomSafeBatcher(model, 4, "serfiq")(np.arange(3))
    assert not device.is_out_of_memory(ValueError("Failed to allocate memory"))


# --- a requested GPU that does not exist -----------------------------------------------------------


@without_gpu
@pytest.mark.parametrize("pool", ["find_face", "serfiq", "dbcnn"])
@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"num_gpus": 0.5}])
def test_a_missing_gpu_is_an_error_without_fallback(astronaut, pool, asked):
    with pytest.raises(UsageError, match=r"cuda is not available: .*install|check the driver"):
        faceq.score_images([astronaut], **{pool: asked})


@without_gpu
def test_an_unknown_device_is_refused():
    with pytest.raises(UsageError, match=r"dbcnn.device: .*'auto', 'cpu' or 'cuda'"):
        config.build({"dbcnn": {"device": "gpu"}})


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"onnxruntime"}, "the build without CUDA, on which faceq and insightface depend"),
        ({"onnxruntime", "onnxruntime-gpu"}, "both installed, and the one without CUDA takes precedence"),
        ({"onnxruntime-gpu"}, "without its CUDA provider"),
    ],
)
def test_the_wrong_onnxruntime_is_reported_with_the_package_to_install(installed, said):
    text = device._wrong_runtime(installed)
    assert said in text
    assert text.index("pip uninstall --yes onnxruntime") < text.index(f"`{INSTALL}`")
    assert f"`{INSTALL}`" in device.CUDA_DID_NOT_LOAD


def test_the_page_installs_what_the_messages_name():
    page = (ROOT / "docs" / "how-to" / "gpu.md").read_text(encoding="utf-8")
    assert f"\n{INSTALL}\n" in page


@without_gpu
def test_a_gpu_that_models_cannot_use_is_reported_with_the_reason(monkeypatch, caplog):
    """Ray has a logical GPU, but the packages of this environment are builds without CUDA."""
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    plain = config.build({})
    assert cluster.with_local_gpus(plain) == plain
    assert f"models run on the CPU: {device.missing()}" in caplog.text
    assert cluster.pool_options(Pool(device="cuda"))["num_gpus"] == 0.5


def test_cpus_are_those_of_the_process_or_else_of_the_machine(monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        assert device.usable_cpus() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert device.usable_cpus() == os.cpu_count()


def test_bytes_reach_the_device_unchanged():
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    where = "cuda" if GPU else "cpu"
    assert np.array_equal(to_device(pixels, where).cpu().numpy(), pixels)


@on_gpu
def test_a_job_on_a_machine_with_a_gpu_uses_it(monkeypatch):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    chosen = cluster.with_local_gpus(config.build({}))
    assert (chosen.serfiq.runs_on, chosen.dbcnn.runs_on) == ("cuda", "cuda")
    assert chosen.serfiq.num_gpus + chosen.dbcnn.num_gpus == 1


@on_gpu
def test_a_cuda_provider_that_does_not_load_is_an_error(monkeypatch):
    """ONNX Runtime then creates a session on the CPU and reports this only in its log."""
    made = onnxruntime.InferenceSession

    def on_the_cpu(model, options, providers, **more):
        return made(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    with pytest.raises(device.DeviceError, match="its CUDA provider did not load"):
        DropoutDistances(fetch("sface"), zoo.recogniser("sface"), None, "cuda", 8, 1)

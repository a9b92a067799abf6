"""Resolve the settings `runtime` and `precision`: how the network of each score computes."""

from typing import Literal, NamedTuple

from faceq.config import Config
from faceq.errors import UsageError
from faceq.models import zoo
from faceq.runtime import openvino_runtime
from faceq.runtime.numerics import Numerics, has_fast_bf16, has_openvino
from faceq.stage_resources import Pool

Score = Literal["serfiq", "dbcnn"]


class ScoreNumerics(NamedTuple):
    """How the network of each score computes."""

    serfiq: Numerics
    dbcnn: Numerics


MEASURED_IN_BF16 = frozenset({"sface", "dbcnn-lite"})
"""Models that `precision: auto` runs in bf16. For these it was measured that their scores are as good as in
f32: see docs/explanation/precision.md."""


NO_BF16 = (
    "precision: {}: published DB-CNN has no bf16 on CPUs: set precision to f32, or use the preset embedded"
)


def resolve(config: Config, here: bool) -> ScoreNumerics:
    """How the network of each score computes.

    Args:
        config: settings that already say which stages run on GPUs.
        here: the stages run on this machine. Otherwise `auto` means f32 on CPUs: this machine does not know
            the CPUs of the others, and all of them must compute alike.

    Raises:
        UsageError: the settings contradict each other, or a model cannot compute as they say.
        DeviceError: the stages run on this machine, which lacks what the settings ask for.
    """
    found = ScoreNumerics(
        serfiq=_of(config, "serfiq", config.serfiq, config.chosen.recogniser, here),
        dbcnn=_of(config, "dbcnn", config.dbcnn, config.chosen.quality, here),
    )
    for each in found:
        if here and each.runtime == "openvino":
            openvino_runtime.check(each.precision)
    return found


def _of(config: Config, score: Score, pool: Pool, model: str, here: bool) -> Numerics:
    return _on_gpu(config, score) if pool.runs_on == "cuda" else _on_cpu(config, score, model, here)


def _on_gpu(config: Config, score: Score) -> Numerics:
    if config.precision == "bf16":
        raise UsageError(
            f"precision: bf16 is for CPUs, and {score} runs on a GPU: set precision to fp16, or "
            f"{score}.device to cpu"
        )
    # The recogniser stays in f32: SER-FIQ's scores differ only slightly from face to face.
    half = score == "dbcnn" and config.precision != "f32"
    return Numerics("fp16" if half else "f32")


def _on_cpu(config: Config, score: Score, model: str, here: bool) -> Numerics:
    if config.precision == "fp16" and score == "dbcnn":
        raise UsageError(
            "precision: fp16 is for GPUs, and dbcnn runs on CPUs: set precision to f32, bf16 or auto"
        )
    wanted = config.precision == "bf16"
    if wanted and config.runtime == "onnxruntime":
        raise UsageError(
            "precision: ONNX Runtime computes in f32 on CPUs: set runtime to openvino for bf16, or precision "
            "to f32"
        )
    if wanted and zoo.find(model).quality_scale is not None:
        raise UsageError(NO_BF16.format(model))
    automatic = (
        config.precision == "auto"
        and here
        and config.runtime != "onnxruntime"
        and model in MEASURED_IN_BF16
        and has_fast_bf16()
        and has_openvino()
    )
    if wanted or automatic:
        return Numerics("bf16", "openvino")
    return Numerics("f32", "openvino" if config.runtime == "openvino" else "onnxruntime")

"""One typed configuration for YAML, the command line and Python."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from faceq import models
from faceq.errors import UsageError
from faceq.mask import Region


@dataclass(frozen=True)
class Preset:
    """Which model of the zoo does what."""

    detector: str
    recogniser: str
    mesh: str
    quality: str

    def models(self) -> tuple[str, ...]:
        return (self.detector, self.recogniser, self.mesh, self.quality)


PRESETS = {
    "embedded": Preset(detector="yunet", recogniser="sface", mesh="facemesh", quality="dbcnn-lite"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Light(_Strict):
    """Resources of the tasks that read, relabel and write: they wait more than they compute."""

    num_cpus: float = Field(0.25, gt=0)


class Tasks(_Strict):
    """Resources of a stage that runs as Ray tasks. `batch_size`: frames a task takes at a time; a task that
    asks for several whole CPUs runs as many threads."""

    num_cpus: float = Field(0.5, gt=0)
    batch_size: int = Field(32, ge=1)

    @property
    def threads(self) -> int:
        return max(1, int(self.num_cpus))


class Pool(_Strict):
    """Resources of a stage that runs as a pool of actors, each with a model in memory.

    num_cpus, num_gpus: of one actor; with a GPU, or a part of one, the model runs on CUDA. On CPUs it
    runs as many threads as it has whole CPUs.
    min_size, initial_size, max_size: actors; the pool begins with initial_size (none: min_size). No
    max_size: with GPUs as many as they hold, else half as many as the cluster may have CPUs.
    batch_size: frames an actor takes at a time; those that still matter are gathered into
    mini-batches of `mini_batch`, which is the shape that the model sees, always.
    """

    num_cpus: float = Field(0.5, gt=0)
    num_gpus: float = Field(0.0, ge=0)
    min_size: int = Field(1, ge=1)
    initial_size: int | None = Field(None, ge=1)
    max_size: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    mini_batch: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Pool":
        if self.max_size is not None and self.max_size < self.min_size:
            raise ValueError(f"max_size {self.max_size} is less than min_size {self.min_size}")
        if not self.min_size <= self.first_size <= (self.max_size or self.first_size):
            raise ValueError(f"initial_size {self.initial_size} is not between min_size and max_size")
        return self

    @property
    def first_size(self) -> int:
        return self.initial_size or self.min_size

    @property
    def threads(self) -> int:
        return max(1, int(self.num_cpus))

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus > 0 else "cpu"


class Video(_Strict):
    """Which frames of a video are frames of the input: all, if nothing is set.

    fps: so many a second, by their timestamps. every: each so-manyth one.
    """

    fps: float | None = Field(None, gt=0, allow_inf_nan=False)
    every: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> "Video":
        if self.fps is not None and self.every is not None:
            raise ValueError("fps and every exclude each other: give one of them")
        return self


class S3(_Strict):
    """Where S3 is, if the usual AWS variables and profiles do not say. Credentials never stand here."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None


class Calibration(_Strict):
    """serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))); `faceq evaluate calibrate` fits one."""

    slope: float = Field(gt=0)
    threshold: float = Field(gt=0, lt=1)


class Config(_Strict):
    """Settings of a scoring job.

    input: files, folders, globs; manifest: files that list frames' places (see `faceq.manifest`).
    preset: the set of models. fiq_threshold: least `serfiq`, 0...1, of a face that is scored further;
    0 scores every face. serfiq_passes: draw SER-FIQ by that many dropout passes, as published (there
    100); none: the closed form, which has no noise and costs a fraction. calibration: of `serfiq`, if
    not the zoo's. quality_region: what DB-CNN judges of a face's crop: what is inside the `mask`; for
    comparison the whole `crop`, or the crop with all outside the mask blacked out (`black_out`).
    embeddings: keep recognition embeddings, as a column. det_threshold: least confidence
    of a face, 0...1. min_face: least shorter side of a face's box, pixels. max_pixels: larger pictures
    are unreadable (Pillow opens none above 178,956,970). video: which frames of a video count. limit:
    only the first N frames. rows_per_file: frames per task that writes. num_cpus: logical CPUs of a Ray
    that is started for this job (none: the machine's).
    """

    preset: str = "embedded"
    input: tuple[str, ...] = ()
    manifest: tuple[str, ...] = ()
    out: str | None = None
    fiq_threshold: float = Field(0.5, ge=0, le=1)
    serfiq_passes: int | None = Field(None, ge=2, le=100_000)
    calibration: Calibration | None = None
    quality_region: Region = "mask"
    embeddings: bool = False
    det_threshold: float = Field(0.6, gt=0, lt=1)
    min_face: int = Field(40, ge=1)
    max_pixels: int = Field(80_000_000, ge=1, le=178_956_970)
    video: Video = Video()
    limit: int | None = Field(None, ge=1)
    rows_per_file: int = Field(1000, ge=1)
    num_cpus: int | None = Field(None, ge=2)
    s3: S3 = S3()
    read: Light = Light()
    find_face: Tasks = Tasks()
    serfiq: Pool = Pool()
    dbcnn: Pool = Pool()

    @field_validator("input", "manifest", mode="before")
    @classmethod
    def _one_input_is_a_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"no preset is called {value!r}; known are {', '.join(PRESETS)}")
        return value

    @property
    def models(self) -> Preset:
        return PRESETS[self.preset]

    def calibrated(self) -> Calibration:
        """The calibration that holds: these settings', else the zoo's for the preset's recogniser."""
        zoo = models.recogniser(self.models.recogniser).calibration
        return self.calibration or Calibration(slope=zoo.slope, threshold=zoo.threshold)

    def record(self) -> dict[str, Any]:
        """What decides which rows there are, and their values, as JSON: kept with every table and compared
        before a rerun."""
        zoo = [models.get(name) for name in self.models.models()]
        return {
            "preset": self.preset,
            "fiq_threshold": self.fiq_threshold,
            "serfiq_passes": self.serfiq_passes,
            "quality_region": self.quality_region,
            "embeddings": self.embeddings,
            "det_threshold": self.det_threshold,
            "min_face": self.min_face,
            "max_pixels": self.max_pixels,
            "video_fps": self.video.fps,
            "video_every": self.video.every,
            "models": {m.name: {"sha256": m.sha256, "licence": m.licence} for m in zoo},
            "calibration": self.calibrated().model_dump(),
        }


def load(path: str | None, overrides: Mapping[str, Any]) -> Config:
    """Configuration from a YAML file, values in `overrides` that are not None going before it.

    Raises:
        UsageError: a file that is not YAML, an unknown key (with the nearest right one), a bad value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"config: {path}: there is no such file") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"config: {path}: {' '.join(str(error).split())}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise UsageError(f"config: {path}: expected `key: value` lines, got {type(loaded).__name__}")
        values.update(loaded or {})
    values.update({key: value for key, value in overrides.items() if value is not None})
    return build(values, where=path or "config")


def build(values: Mapping[str, Any], where: str = "config") -> Config:
    """A checked configuration; UsageError in one line where a key or a value is wrong."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(f"{where}: {'; '.join(_explain(e) for e in error.errors())}") from None


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parent: Any = Config
        for part in error["loc"][:-1]:
            kind = parent.model_fields[part].annotation
            parent = next((k for k in get_args(kind) if k is not type(None)), kind)  # of `X | None`: X
        known = list(parent.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]} (got {error['input']!r})"

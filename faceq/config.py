"""The settings of a job, for YAML, the command line and Python: plain data, without models or network."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from faceq.errors import StorageError, UsageError
from faceq.messages.one_line import one_line
from faceq.presets import PRESETS, Preset
from faceq.storage.settings import S3Settings

Region = Literal["mask", "black_out", "crop", "frame", "frame_jpeg"]
"""What is judged: of a face's crop what is inside the mask; the crop, black outside the mask; all of it; or
the whole frame, black outside the mask, as it is or written as a JPEG and read back."""

FRAME_REGIONS: tuple[Region, ...] = ("frame", "frame_jpeg")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Models(_Strict):
    """Models that replace the preset's. Each is a name from `faceq models list`, or a file; on a cluster the
    file lies at the same path on each machine."""

    detector: str | None = Field(None, description="Finds faces and five landmarks.")
    recogniser: str | None = Field(None, description="Gives the embeddings from which SER-FIQ is computed.")
    landmarks: str | None = Field(None, description="Finds the dense landmarks that outline the mask.")
    quality: str | None = Field(None, description="DB-CNN, which scores the face inside the mask.")


class TaskResources(_Strict):
    """Resources of the tasks that read, relabel and write frames. They wait more than they compute."""

    num_cpus: float = Field(
        0.25, gt=0, description="Logical CPUs of one task. Decoding videos takes a whole core."
    )


Device = Literal["auto", "cpu", "cuda"]

HALF_A_GPU = 0.5
"""Share of one GPU that an actor gets if nothing else is set: the two pools share the GPU."""


class Stage(_Strict):
    """Resources of a stage that runs models."""

    num_cpus: float = Field(
        0.5,
        gt=0,
        description="Logical CPUs of one task or actor, for Ray's placement. On CPUs a model runs as many "
        "threads as there are whole CPUs.",
    )
    num_gpus: float = Field(
        0.0, ge=0, description="Share of a GPU for one task or actor. Above 0 the models run on CUDA."
    )
    device: Device = Field(
        "auto",
        description="Where the models run. `auto`: CUDA if `num_gpus` is above 0; `serfiq` and `dbcnn` also "
        "use the GPU of the machine that a job starts on. `cuda`: fails without a GPU, and takes half a GPU "
        "unless `num_gpus` says otherwise. `cpu`: ignores `num_gpus`.",
    )
    min_size: int = Field(1, ge=1, description="Minimum number of actors in the pool.")
    initial_size: int | None = Field(
        None, ge=1, description="Number of actors that the pool starts with. Default: `min_size`."
    )
    max_size: int | None = Field(
        None,
        ge=1,
        description="Maximum number of actors in the pool. Default: as many as fit on the GPUs or on the "
        "CPUs of a cluster; on one machine without a GPU, half as many as it has CPUs.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Frames in one batch. If it is not set: 256 where `auto` finds a GPU, and 8 where a "
        "frame takes seconds on the CPUs of one machine.",
    )

    @model_validator(mode="before")
    @classmethod
    def _cuda_takes_a_share(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("device") == "cuda" and not values.get("num_gpus"):
            return {**values, "num_gpus": HALF_A_GPU}
        return values

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Stage":
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
    def runs_on(self) -> str:
        """`cuda` or `cpu`, with `auto` settled by num_gpus."""
        if self.device == "auto":
            return "cuda" if self.num_gpus > 0 else "cpu"
        return self.device


class FindFaces(Stage):
    """Resources of decoding, detection and landmarks. Without GPUs these run as Ray tasks on all CPUs that
    are left, and the pool sizes do not apply; with `num_gpus` they run as a pool of actors. Decoding, YuNet
    and FaceMesh stay on the CPU even then."""


class Pool(Stage):
    """Resources of a stage that always runs as a pool of actors, each with a model in memory."""

    mini_batch: int = Field(
        8,
        ge=1,
        description="Frames that the model sees at once, always in this shape. A mini-batch is gathered from "
        "the frames of a batch that still need the model. If it is not set: 64 where `auto` finds a GPU.",
    )


class Video(_Strict):
    """Which frames of a video to score: all of them if nothing is set."""

    fps: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Score X frames per second of video. By the timestamps, these are the first frames at or "
        "after each 1/X seconds.",
    )
    every: int | None = Field(
        None, ge=1, description="Score every K-th frame of a video. These are the frames 0, K, 2K, …"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> "Video":
        if self.fps is not None and self.every is not None:
            raise ValueError("fps and every exclude each other: give one of them")
        return self


class Limits(_Strict):
    """What one frame or source may take. Beyond it the frame, or the rest of the source, becomes an
    unreadable row whose `error` names the setting. The defaults are far above what real data need. They count
    bytes and work, never time: a row must not depend on how busy the machine was."""

    frame_bytes: int = Field(256 << 20, ge=1, description="Maximum size of one encoded image in bytes.")
    jpeg_scans: int = Field(
        100,
        ge=1,
        description="Maximum number of scans in one progressive JPEG. Encoders write about ten, and each "
        "costs a pass over all pixels.",
    )
    source_memory: int = Field(
        1 << 30,
        ge=1,
        description="Maximum memory in bytes for the structure of one source: a video's index, a page of a "
        "Parquet file, the strip list of a TIFF.",
    )


class Calibration(_Strict):
    """The scale of `serfiq`: `serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold)))`. `faceq evaluate
    calibrate` fits it to your faces."""

    slope: float = Field(gt=0, description="Steepness of the curve.")
    threshold: float = Field(gt=0, lt=1, description="The `serfiq_raw` at which `serfiq` is 0.5.")


class Config(_Strict):
    """The settings of a scoring job."""

    input: tuple[str, ...] = Field(
        (), description="Files, folders and globs to score, local or `s3://`. One, or a list."
    )
    manifest: tuple[str, ...] = Field(
        (), description="Files that list frames by URI: .parquet, .csv or .jsonl. One, or a list."
    )
    out: str | None = Field(None, description="Folder or `s3://` prefix of the result table.")
    preset: str = Field("embedded", description="Set of models: `embedded`, `insightface` or `cafi`.")
    models: Models = Field(Models(), description="Models that replace the preset's.")
    accept_licence: bool = Field(
        False, description="Accept the model licences. Their terms are shown at the first use."
    )
    model_mirrors: tuple[str, ...] = Field(
        (),
        description="Folders, `s3://` or `https://` prefixes to fetch models from first. One, or a list.",
    )
    dropout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Dropout rate that the recogniser was trained with. Default: what its file or the model "
        "zoo says.",
    )
    quality_scale: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Best score on the scale of a published DB-CNN checkpoint, usually 1 or 100. Default: "
        "what the model zoo says; for a file of your own, 1.",
    )
    fiq_threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Minimum `serfiq` of a face that DB-CNN scores; 0 scores every face. Below it `dbcnn` is "
        "null. With a lower threshold than before, faces that now pass are scored.",
    )
    serfiq_passes: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Compute SER-FIQ by this many dropout passes; the published method takes 100. Default: "
        "the closed form, which has no noise and costs a fraction.",
    )
    calibration: Calibration | None = Field(
        None, description="Scale of `serfiq`. Default: the recogniser's in the model zoo."
    )
    quality_region: Region = Field(
        "mask",
        description="The part of the picture that DB-CNN scores. `mask`: the face's crop inside the mask. "
        "For comparison, `crop`: the whole crop; `black_out`: the crop, black outside the mask; `frame`: "
        "the whole frame, black outside the mask, resized to 384 x 384; `frame_jpeg`: the same after JPEG "
        "compression.",
    )
    embeddings: bool = Field(False, description="Keep recognition embeddings as a column.")
    det_threshold: float = Field(0.6, gt=0, lt=1, description="Minimum confidence of a face.")
    min_face: int = Field(
        40,
        ge=1,
        description="Minimum shorter side of a face's box in pixels; a smaller face is `face_too_small`. "
        "Large frames are searched closely enough to find a face of this size: a smaller number costs more.",
    )
    max_pixels: int = Field(
        80_000_000,
        ge=1,
        le=178_956_970,
        description="Maximum number of pixels in a picture. A larger one is unreadable instead of filling "
        "the memory.",
    )
    video: Video = Field(Video(), description="Which frames of a video to score.")
    limit: int | None = Field(None, ge=1, description="Score only the first N frames of the input.")
    any_name: bool = Field(
        False,
        description="Also read files without a known extension, by their content. Files in a folder whose "
        "content is not recognised are counted as passed over.",
    )
    limits: Limits = Field(Limits(), description="What one frame or source may take.")
    rows_per_file: int | None = Field(
        None,
        ge=1,
        description="Frames that are written together; a kill loses as many. Default: 1000 on clusters and "
        "GPUs; on the CPUs of one machine five seconds' work or a tenth of a small input, between 50 and "
        "1000. Fewer rows mean more files and slower queries: `faceq compact` joins them.",
    )
    num_cpus: int | None = Field(
        None,
        ge=2,
        description="Logical CPUs of a Ray that is started for this job. Default: those that the process may "
        "use, within the CPU quota and memory limit of its container.",
    )
    s3: S3Settings = Field(S3Settings(), description="How to reach S3.")
    read: TaskResources = Field(TaskResources(), description="Resources of the tasks that read and write.")
    find_face: FindFaces = Field(FindFaces(), description="Resources of decoding, detection and landmarks.")
    serfiq: Pool = Field(Pool(), description="Resources of the recogniser.")
    dbcnn: Pool = Field(Pool(), description="Resources of DB-CNN.")

    @model_validator(mode="before")
    @classmethod
    def _preset_comes_first(cls, values: Any) -> Any:
        name = values.get("preset", "embedded")
        preset = PRESETS.get(name) if isinstance(name, str) else None
        own = preset.settings if preset else {}
        return {**values, **{key: _merged(value, values.get(key, value)) for key, value in own.items()}}

    @field_validator("input", "manifest", "model_mirrors", mode="before")
    @classmethod
    def _one_is_a_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"no preset is called {value!r}; known are {', '.join(PRESETS)}")
        return value

    @property
    def chosen(self) -> Preset:
        """The preset, with the models that replace some of its models."""
        return replace(PRESETS[self.preset], **self.models.model_dump(exclude_none=True))


def _merged(own: Any, given: Any) -> Any:
    """A section that is given in part keeps the preset's other keys."""
    return {**own, **given} if isinstance(own, Mapping) and isinstance(given, Mapping) else given


def load(
    path: str | None, overrides: Mapping[str, Any], assignments: Iterable[tuple[str, Any]] = ()
) -> Config:
    """Settings from a YAML file, then `assignments` (dotted keys and values, from `--set`), then `overrides`
    (None: the flag is not given). The later ones win.

    Raises:
        UsageError: a file that is not YAML, an unknown key (with the nearest right one), a bad value.
    """
    values = {} if path is None else _read(path)
    assigned = []
    for key, value in assignments:
        _put(values, key, value)
        assigned.append(key)
    for key, value in overrides.items():
        if key == "models" and isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            values[key] = {**values[key], **value}  # one by one: others of the file stay
        elif value is not None:
            values[key] = value
    return build(values, where=path or "config", assigned=assigned)


def _read(path: str) -> dict[str, Any]:
    """What a YAML file says; UsageError or StorageError in one line if that is not `key: value` lines."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"config: {path}: there is no such file") from None
    except PermissionError:
        raise StorageError(f"config: {path}: cannot be read: change its permissions") from None
    except RecursionError:
        raise UsageError(f"config: {path}: is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"config: {path}: {one_line(error)}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise UsageError(f"config: {path}: expected `key: value` lines, got {type(loaded).__name__}")
    return dict(loaded or {})


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; the other keys of its section stay."""
    section, _, rest = key.partition(".")
    if rest:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, Mapping) else {}
        _put(values[section], rest, value)
    else:
        values[section] = value


def build(values: Mapping[str, Any], where: str = "config", assigned: Iterable[str] = ()) -> Config:
    """Checked settings; UsageError in one line where a key or a value is wrong.

    Args:
        values: settings by their names; a section is a mapping.
        where: names the origin of the values in the message.
        assigned: dotted keys of values that come from `--set`.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        named = tuple(assigned)
        found = [_explain(each, named) for each in error.errors()]
        prefix = "" if all(text.startswith("--set ") for text in found) else f"{where}: "
        raise UsageError(f"{prefix}{'; '.join(found)}") from None


def _explain(error: Any, assigned: tuple[str, ...]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parent: type[BaseModel] | None = Config
        for part in error["loc"][:-1]:
            parent = section_of(parent.model_fields[part].annotation) if parent else None
        known = list(parent.model_fields) if parent else []
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {key!r}: {hint}"
    message = error["msg"].removeprefix("Value error, ")
    origin = "--set " if any(f"{key}.".startswith(f"{name}.") for name in assigned) else ""
    return f"{origin}{key}: {message[0].lower()}{message[1:]} (got {error['input']!r})"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field holds (of `Calibration | None`: Calibration); None for plain values."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)

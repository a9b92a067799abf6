"""One typed configuration for YAML, the command line and Python."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from faceq.errors import StorageError, UsageError
from faceq.models import zoo
from faceq.models.zoo import Model, Recogniser, tell
from faceq.storage.settings import S3Settings

FACE_FINDING = 2
"""Which way of finding and aligning faces a table's rows were made with: 2: that of `faceq.faces.finder`; 1,
which records do not name: the largest face as it stands, aligned half by the detector's landmarks."""

Region = Literal["mask", "black_out", "crop", "frame", "frame_jpeg"]
"""What is judged: of a face's crop what is inside the mask; the crop, black outside the mask; all of it; or
the whole frame, black outside the mask, as it is or written as a JPEG and read back."""

FRAME_REGIONS: tuple[Region, ...] = ("frame", "frame_jpeg")

Outline = Literal["oval", "hull"]
"""The mask's edge: the face oval of the landmark model, where it has one; the convex hull of the
landmarks."""

Pose = Literal["five", "pnp"]
"""Head pose from the five landmarks, or by a perspective fit to six dense ones."""


@dataclass(frozen=True)
class Preset:
    """Which model does what, each a name in the zoo or a file, and what else is part of the set.

    settings: of `Config`, where they are not its defaults.
    """

    detector: str
    recogniser: str
    landmarks: str
    quality: str
    outline: Outline = "oval"
    pose: Pose = "five"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def models(self) -> tuple[str, ...]:
        return (self.detector, self.recogniser, self.landmarks, self.quality)


_INSIGHTFACE = Preset(
    detector="scrfd-10g",
    recogniser="arcface-r50",
    landmarks="landmarks-106",
    quality="dbcnn-koniq",
    outline="hull",
    settings={"det_threshold": 0.5},
)

PRESETS = {
    "embedded": Preset(detector="yunet", recogniser="sface", landmarks="facemesh", quality="dbcnn-lite"),
    "insightface": _INSIGHTFACE,
    "cafi": replace(
        _INSIGHTFACE,
        pose="pnp",
        settings={
            "det_threshold": 0.5,
            "fiq_threshold": 0.5,
            "serfiq_passes": 100,
            "calibration": {"slope": 130.0, "threshold": 0.88},
            "quality_region": "frame_jpeg",
        },
    ),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Models(_Strict):
    """Models in place of the preset's, each a name in the zoo or a file. On a cluster a file lies at the same
    path on each machine."""

    detector: str | None = None
    recogniser: str | None = None
    landmarks: str | None = None
    quality: str | None = None


class Light(_Strict):
    """Resources of the tasks that read, relabel and write: they wait more than they compute."""

    num_cpus: float = Field(0.25, gt=0)


Device = Literal["auto", "cpu", "cuda"]

SHARE_OF_A_CARD = 0.5
"""Of one GPU that an actor gets where nobody says: the two pools share it."""

MINI_BATCH_OF_A_CARD = 64
BATCH_OF_A_CARD = 4 * MINI_BATCH_OF_A_CARD
"""Frames that a pool shows its model and takes at a time, where a card is found for it and nothing is set.
The defaults, 8 of 32, are for CPUs: with them a card waits for its host. Frames that fell out leave gaps in
a batch, so it is several mini-batches long."""


class Stage(_Strict):
    """Resources of a stage with models.

    num_cpus, num_gpus: of one task or actor, for Ray's placement. device: `auto`: CUDA where num_gpus is
    above 0; `cuda`: an error where there is none, with half a card unless num_gpus says otherwise; `cpu`,
    whatever num_gpus says. On CPUs models run as many threads as a task or actor has whole CPUs. min_size,
    initial_size, max_size: actors of the stage's pool, which begins with initial_size (none: min_size). No
    max_size: as many as the GPUs, or the CPUs of a cluster, have room for; on a machine without GPUs half as
    many as it has CPUs. batch_size: frames that are taken at a time.
    """

    num_cpus: float = Field(0.5, gt=0)
    num_gpus: float = Field(0.0, ge=0)
    device: Device = "auto"
    min_size: int = Field(1, ge=1)
    initial_size: int | None = Field(None, ge=1)
    max_size: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _cuda_takes_a_share(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("device") == "cuda" and not values.get("num_gpus"):
            return {**values, "num_gpus": SHARE_OF_A_CARD}
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
    """Resources of decoding, detection and landmarks. Without GPUs they run as Ray tasks, on all CPUs that
    are left, and the sizes of a pool do not count; with num_gpus, as a pool of actors. Decoding, YuNet and
    FaceMesh stay on the CPU then, too."""


class Pool(Stage):
    """Resources of a stage that always runs as a pool of actors, each with a model in memory.

    device: `auto` also takes CUDA where a job starts on a machine of its own with a card that models can run
    on; both pools then share what `find_face` leaves of it, with mini_batch 64 and batch_size 256 where
    nothing else is set. Frames of a batch that still matter are gathered into mini-batches of `mini_batch`,
    which is the shape that the model sees, always.
    """

    mini_batch: int = Field(8, ge=1)

    def on_card(self, share: float) -> "Pool":
        """This pool with so much of a GPU for each actor, in batches of a card's size where none is set."""
        batch = self.batch_size if "batch_size" in self.model_fields_set else BATCH_OF_A_CARD
        mini_batch = (
            self.mini_batch if "mini_batch" in self.model_fields_set else min(MINI_BATCH_OF_A_CARD, batch)
        )
        return self.model_copy(update={"num_gpus": share, "batch_size": batch, "mini_batch": mini_batch})


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


class Limits(_Strict):
    """What one frame or source may take: beyond it the frame, or the source's rest, is an unreadable row.

    The defaults are far above what real data need. They count bytes and work, never time: a row must not
    depend on how busy the machine was.

    frame_bytes: bytes of one encoded image. jpeg_scans: scans of one progressive JPEG; encoders write about
    ten, and each costs a pass over all pixels. source_memory: bytes that the structure of a source may take
    in memory at once, such as a video's index or a page of a Parquet file.
    """

    frame_bytes: int = Field(256 << 20, ge=1)
    jpeg_scans: int = Field(100, ge=1)
    source_memory: int = Field(1 << 30, ge=1)


class Calibration(_Strict):
    """serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))); `faceq evaluate calibrate` fits one."""

    slope: float = Field(gt=0)
    threshold: float = Field(gt=0, lt=1)


class Config(_Strict):
    """Settings of a scoring job.

    input: files, folders, globs; manifest: files that list frames' places (see `faceq.sources.manifest`).
    preset: the set of models; models: others in its models' places. accept_licence: terms that models come
    under are accepted. model_mirrors: folders, `s3://` or `https://` prefixes that hold model files, tried
    before their own sources. dropout: the recogniser's rate, if not what its file or the zoo says.
    quality_scale: the best score on a published DB-CNN's own scale, mostly 1 or 100; none: what the zoo says,
    for a file 1. fiq_threshold: least `serfiq`, 0...1, of a face that is scored further; 0 scores every face.
    serfiq_passes: draw SER-FIQ by that many dropout passes, as published (there 100); none: the closed form,
    which has no noise and costs a fraction. calibration: of `serfiq`, if not the zoo's. quality_region: what
    DB-CNN judges of a face's crop: what is inside the `mask`; for comparison the whole `crop`, the crop with
    all outside the mask blacked out (`black_out`), or the whole `frame`, blacked out likewise and brought to
    384x384, as it is or after a pass through JPEG (`frame_jpeg`).
    embeddings: keep recognition embeddings, as a column. det_threshold: least confidence of a face,
    0...1. min_face: least shorter side of a face's box, pixels. max_pixels: larger pictures are unreadable
    (Pillow opens none above 178,956,970). video: which frames of a video count. limit: only the first N
    frames. any_name: also read files without a known ending, by what their bytes say they are. limits: what
    one frame or source may take. rows_per_file: frames that are written together (none: some seconds' work,
    50 to 1000). num_cpus: logical CPUs of a Ray that is started for this job (none: the machine's).
    """

    preset: str = "embedded"
    models: Models = Models()
    accept_licence: bool = False
    model_mirrors: tuple[str, ...] = ()
    dropout: float | None = Field(None, gt=0, lt=1)
    input: tuple[str, ...] = ()
    manifest: tuple[str, ...] = ()
    out: str | None = None
    quality_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
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
    any_name: bool = False
    limits: Limits = Limits()
    rows_per_file: int | None = Field(None, ge=1)
    num_cpus: int | None = Field(None, ge=2)
    s3: S3Settings = S3Settings()
    read: Light = Light()
    find_face: FindFaces = FindFaces()
    serfiq: Pool = Pool()
    dbcnn: Pool = Pool()

    @model_validator(mode="before")
    @classmethod
    def _preset_comes_first(cls, values: Any) -> Any:
        name = values.get("preset", "embedded")
        preset = PRESETS.get(name) if isinstance(name, str) else None
        return {**preset.settings, **values} if preset else values

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
        """The preset, with the models that stand in its models' places."""
        return replace(PRESETS[self.preset], **self.models.model_dump(exclude_none=True))

    def fetch(self, name: str, report: Callable[[str], None] = tell) -> Path:
        """A verified local copy of a model, as these settings have it come."""
        access = zoo.Access(self.accept_licence, self.model_mirrors, self.s3)
        return zoo.fetch(name, report, access)

    def on_gpus(self, cards: float) -> "Config":
        """These settings where so many GPUs are at hand that models can run on: pools whose device is `auto`
        get a share of what is left of them, half a card at most, and batches to match, or stay on the CPU
        where nothing is."""
        pools = {"serfiq": self.serfiq, "dbcnn": self.dbcnn}
        taken = sum(stage.min_size * stage.num_gpus for stage in (self.find_face, *pools.values()))
        open_ones = [name for name, pool in pools.items() if pool.device == "auto" and not pool.num_gpus]
        needed = sum(pools[name].min_size for name in open_ones)
        if not needed or taken >= cards:
            return self
        share = min(SHARE_OF_A_CARD, (cards - taken) / needed)
        return self.model_copy(update={name: pools[name].on_card(share) for name in open_ones})

    def accept_terms(self, report: Callable[[str], None] = tell) -> dict[str, str]:
        """See to it that all terms which must be accepted are; the models that have such, and their licences.

        Raises LicenceError where they are not.
        """
        used = [zoo.find(name) for name in self.chosen.models()]
        for name in self.chosen.models():
            zoo.accept_terms(name, self.accept_licence, report)
        return {model.name: model.licence for model in used if model.terms}

    def recogniser(self) -> Recogniser:
        """What is known of the recogniser; its dropout rate is these settings', if they have one."""
        known = zoo.recogniser(self.chosen.recogniser)
        if self.dropout is None:
            return known
        return replace(known, dropout=self.dropout, closed_form_holds=False)

    def best_quality(self) -> float | None:
        """The best score on the quality checkpoint's own scale: these settings', else the zoo's; None where
        neither says."""
        return self.quality_scale or zoo.find(self.chosen.quality).quality_scale

    def calibrated(self) -> Calibration:
        """The calibration that holds: these settings', else what is known for the recogniser."""
        known = self.recogniser().calibration
        return self.calibration or Calibration(slope=known.slope, threshold=known.threshold)

    def record(self) -> dict[str, Any]:
        """What decides which rows there are, and their values, as JSON: kept with every table and compared
        before a rerun. What is added here gets a place in `comparable.WHEN_UNNAMED`, too."""
        used = [zoo.find(name) for name in self.chosen.models()]
        return {
            "preset": self.preset,
            "serfiq_passes": self.serfiq_passes,
            "dropout": self.dropout,
            "quality_scale": self.quality_scale,
            "quality_region": self.quality_region,
            "embeddings": self.embeddings,
            "det_threshold": self.det_threshold,
            "min_face": self.min_face,
            "face_finding": FACE_FINDING,
            "max_pixels": self.max_pixels,
            "video_fps": self.video.fps,
            "video_every": self.video.every,
            "models": {m.name: {"sha256": self._digest(m), "licence": m.licence} for m in used},
            "calibration": self.calibrated().model_dump(),
        }

    def _digest(self, model: Model) -> str:
        """A model's whole SHA-256; where the zoo knows its first digits only, that of the verified copy."""
        if len(model.sha256) == zoo.HEX_DIGITS:
            return model.sha256
        return zoo.digest(self.fetch(model.name))


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
        except PermissionError:
            raise StorageError(f"config: {path}: cannot be read: change its permissions") from None
        except RecursionError:
            raise UsageError(f"config: {path}: is nested too deeply") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UsageError(f"config: {path}: {' '.join(str(error).split())}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise UsageError(f"config: {path}: expected `key: value` lines, got {type(loaded).__name__}")
        values.update(loaded or {})
    for key, value in overrides.items():
        if key == "models" and isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            values[key] = {**values[key], **value}  # one by one: others of the file stay
        elif value is not None:
            values[key] = value
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

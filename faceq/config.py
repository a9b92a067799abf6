"""The settings of a job, for YAML, the command line and Python. This module loads no models and uses no
network."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from faceq.errors import UsageError
from faceq.messages.validation import explain
from faceq.presets import PRESETS, Preset
from faceq.stage_resources import FindFaces, Pool, Read, Strict
from faceq.storage import settings_file
from faceq.storage.settings import S3Settings

Region = Literal["mask", "black_out", "crop", "frame", "frame_jpeg"]
"""The part of the image that DB-CNN scores. See `Config.quality_region` for the values."""

Runtime = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "f32", "bf16", "fp16"]
MainFace = Literal["largest", "centre", "best"]

MOST_FACES = 256
"""Upper limit of `max_faces`: the crops of this many faces take 60 MB."""

MOST_PIXELS = 178_956_970
"""Upper limit of `max_pixels`: Pillow refuses images with more."""

FRAME_REGIONS: tuple[Region, ...] = ("frame", "frame_jpeg")


class Models(Strict):
    """Models that replace those of the preset. Each is a name from `faceq models list` or the path of a file.
    On a cluster, the file must have the same path on every machine."""

    detector: str | None = Field(None, description="Finds faces and five landmarks.")
    recogniser: str | None = Field(None, description="Computes the embeddings that SER-FIQ is based on.")
    landmarks: str | None = Field(None, description="Finds the dense landmarks that outline the mask.")
    quality: str | None = Field(None, description="DB-CNN, which scores the face inside the mask.")


class Video(Strict):
    """How videos are read."""

    fps: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Score X frames per second of video: the first frame at or after every multiple of 1/X "
        "seconds, by timestamp.",
    )
    every: int | None = Field(None, ge=1, description="Score every K-th frame of a video: frames 0, K, 2K, …")
    shots: Literal["content", "transnetv2", "none"] = Field(
        "content",
        description="How to find the shots of a video, for the column `shot`. `content`: by the pictures of "
        "all its frames, also those that are not scored. `transnetv2`: by a neural network that sees them. "
        "`none`: not at all.",
    )

    @model_validator(mode="after")
    def _check_exclusive(self) -> "Video":
        if self.fps is not None and self.every is not None:
            raise ValueError("fps and every cannot be combined: set only one of them")
        return self


class Limits(Strict):
    """Limits for one frame or source. A frame that exceeds a limit, or the rest of such a source, becomes an
    `unreadable` row whose `error` names the setting. The defaults are far above what real data needs. Limits
    count bytes and work, never time, so that no row depends on how busy the machine was."""

    frame_bytes: int = Field(256 << 20, ge=1, description="Maximum size of one encoded image in bytes.")
    jpeg_scans: int = Field(
        100,
        ge=1,
        description="Maximum number of scans in one progressive JPEG. Encoders write about ten; each one "
        "takes a pass over all pixels.",
    )
    source_memory: int = Field(
        1 << 30,
        ge=1,
        description="Maximum memory in bytes for the structure of one source: a video's index, a page of a "
        "Parquet file, the strip list of a TIFF, the window of a compressed tar. Also the maximum size of a "
        "video in a Parquet file.",
    )
    temporary_bytes: int = Field(
        8 << 30,
        ge=0,
        description="Maximum size in bytes of the temporary files of one source: the videos of one sample in "
        "a compressed tar.",
    )


class Calibration(Strict):
    """The scale of `serfiq`: `serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold)))`. `faceq evaluate
    calibrate` fits it to your faces."""

    slope: float = Field(gt=0, description="Steepness of the curve.")
    threshold: float = Field(gt=0, lt=1, description="The `serfiq_raw` at which `serfiq` is 0.5.")


class Config(Strict):
    """The settings of a scoring job."""

    input: tuple[str, ...] = Field(
        (), description="Files, folders and globs to score: local paths, or URIs of a store. One or a list."
    )
    manifest: tuple[str, ...] = Field(
        (), description="Files that list frames by URI: .parquet, .csv or .jsonl. One path or a list."
    )
    out: str | None = Field(None, description="Folder of the result table, or its prefix in a store.")
    preset: str = Field("embedded", description="Set of models: `embedded`, `insightface` or `cafi`.")
    models: Models = Field(Models(), description="Models that replace those of the preset.")
    accept_licence: bool = Field(
        False, description="Accept the model licences. Their terms are shown on first use."
    )
    model_mirrors: tuple[str, ...] = Field(
        (),
        description="Folders, or prefixes in a store or on the web, to fetch models from first. "
        "One or a list.",
    )
    dropout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Dropout rate with which the recogniser was trained. Default: the rate in its file or in "
        "the model zoo.",
    )
    quality_scale: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Best score on the scale of a published DB-CNN checkpoint, usually 1 or 100. Default: "
        "the value in the model zoo, or 1 for a file of your own.",
    )
    fiq_threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Minimum `serfiq` for a `dbcnn` score; 0 scores every face. Faces below it get the "
        "status `below_fiq`, and their `dbcnn` is null. If you lower the threshold for an existing table, "
        "the faces that now pass are scored.",
    )
    serfiq_passes: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Compute SER-FIQ by Monte Carlo dropout with this many passes; the published method uses "
        "100. Default: the closed form, which has no sampling noise and takes a fraction of the time.",
    )
    calibration: Calibration | None = Field(
        None, description="Scale of `serfiq`. Default: the calibration of the recogniser in the model zoo."
    )
    quality_region: Region = Field(
        "mask",
        description="The part of the image that DB-CNN scores. `mask`: the part of the face crop inside the "
        "mask. The others are for comparison. `crop`: the whole crop; `black_out`: the crop, black outside "
        "the mask; `frame`: the whole frame, black outside the mask, resized to 384 x 384; `frame_jpeg`: the "
        "same after JPEG compression.",
    )
    runtime: Runtime = Field(
        "auto",
        description="Library that runs the recogniser and DB-CNN-Lite on CPUs. `auto`: OpenVINO for `bf16`, "
        'otherwise ONNX Runtime. OpenVINO must be installed: `pip install "faceq[openvino]"`.',
    )
    precision: Precision | None = Field(
        None,
        description="Precision of the recogniser and DB-CNN. `f32`: single precision. `bf16`: 16 bits, on "
        "CPUs that have it, by OpenVINO. `fp16`: 16 bits for DB-CNN on GPUs. `auto`: `fp16` on GPUs, `bf16` "
        "on a machine with AMX and OpenVINO, otherwise `f32`. Default: `fp16` on GPUs, `f32` on CPUs.",
    )
    measures: Literal["all", "none"] = Field(
        "all",
        description="Which component measures of a face to compute, the columns from `single_face` to "
        "`natural_colour`: all of them, or none.",
    )
    faces: Literal["largest", "all", "aligned"] = Field(
        "largest",
        description="Which faces to score: the `largest` of each frame, `all` of them, or each frame as one "
        "`aligned` face. `all` adds the column `faces`. `aligned` takes square crops that are aligned to the "
        "ArcFace template, and detects nothing.",
    )
    max_faces: int = Field(
        16,
        ge=1,
        le=MOST_FACES,
        description="Maximum number of faces of a frame with `faces: all`: the largest ones of at least "
        "`min_face`.",
    )
    main: MainFace = Field(
        "largest",
        description="With `faces: all`, the main face of a frame, which the columns outside `faces` and "
        "`status` describe. `largest`: the face that `faces: largest` scores. `centre`: the face whose box's "
        "centre is nearest to that of the frame. `best`: the face with the highest `serfiq`, then `dbcnn`; "
        "null counts as lowest. If they are equal, the first in `faces`.",
    )
    embeddings: bool = Field(False, description="Write the recognition embeddings to a column.")
    det_threshold: float = Field(0.6, gt=0, lt=1, description="Minimum detector confidence of a face.")
    min_face: int = Field(
        40,
        ge=1,
        description="Minimum length of the shorter side of a face box, in pixels. A smaller face gets the "
        "status `face_too_small`. Large frames are searched at a resolution at which faces of this size can "
        "be found, so smaller values take more time.",
    )
    max_pixels: int = Field(
        80_000_000,
        ge=1,
        le=MOST_PIXELS,
        description="Maximum number of pixels in an image. A larger image becomes an `unreadable` row.",
    )
    extra_bytes: int = Field(
        16 << 10,
        ge=0,
        description="Maximum size in bytes of what comes with a frame (`extra`). 0: do not read it.",
    )
    video: Video = Field(Video(), description="Which frames of a video to score.")
    limit: int | None = Field(None, ge=1, description="Score only the first N frames of the input.")
    any_name: bool = Field(
        False,
        description="Also read files without a known extension; faceq detects their type from the content. "
        "Files in a folder whose type is not recognised are skipped and counted.",
    )
    limits: Limits = Field(Limits(), description="Limits for one frame or source.")
    rows_per_file: int | None = Field(
        None,
        ge=1,
        description="Number of frames written together; a killed job loses what is not written. Default: "
        "1000 on clusters and GPUs; on CPUs of one machine, the smaller of five seconds' work and a tenth of "
        "the input, but 50 to 1000. Small files make queries slower; `faceq compact` merges them.",
    )
    num_cpus: int | None = Field(
        None,
        ge=2,
        description="Logical CPUs of the Ray cluster that faceq starts. Default: all that it may use.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of this machine at which the Ray that faceq starts serves metrics for Prometheus. "
        "Default: it serves none, and starts a second faster. Clusters serve them in any case.",
    )
    s3: S3Settings = Field(S3Settings(), description="How to connect to S3.")
    read: Read = Field(
        Read(), description="How the input is read, and resources of the tasks that read and write."
    )
    find_face: FindFaces = Field(FindFaces(), description="Resources of decoding and of finding faces.")
    serfiq: Pool = Field(Pool(), description="Resources of the recogniser.")
    dbcnn: Pool = Field(Pool(), description="Resources of DB-CNN.")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset", "embedded")
        preset = PRESETS.get(name) if isinstance(name, str) else None
        defaults = preset.settings if preset else {}
        return {**values, **{key: _merged(value, values.get(key, value)) for key, value in defaults.items()}}

    @field_validator("input", "manifest", "model_mirrors", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}: choose from {', '.join(PRESETS)}")
        return value

    @model_validator(mode="after")
    def _check_faces(self) -> "Config":
        if self.main != "largest" and self.faces != "all":
            raise ValueError(f"main: {self.main} chooses among all faces: set faces: all, too")
        return self

    @property
    def all_faces(self) -> bool:
        """Whether every face of a frame is scored."""
        return self.faces == "all"

    @property
    def chosen(self) -> Preset:
        """The preset, with the models from `models` in place of its own."""
        return replace(PRESETS[self.preset], **self.models.model_dump(exclude_none=True))


def _merged(default: Any, given: Any) -> Any:
    """The given value; a section that is given only in part keeps the other keys of the preset."""
    return {**default, **given} if isinstance(default, Mapping) and isinstance(given, Mapping) else given


def load(
    path: str | None, overrides: Mapping[str, Any], assignments: Iterable[tuple[str, Any]] = ()
) -> Config:
    """Load settings from a YAML file, then apply `assignments` (dotted keys and values, from `--set`), then
    `overrides` (None: the flag is not given). Later values win.

    Raises:
        UsageError: the file is not YAML, a key is unknown (the message suggests the closest one), or a value
            is not valid.
    """
    assignments = list(assignments)
    values = settings_file.read(path, assignments)
    for key, value in overrides.items():
        if key == "models" and isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            values[key] = {**values[key], **value}  # merged key by key: the file may set other models
        elif value is not None:
            values[key] = value
    return build(values, where=path or "config", assigned=[key for key, _ in assignments])


def build(values: Mapping[str, Any], where: str = "config", assigned: Iterable[str] = ()) -> Config:
    """Validate settings.

    Args:
        values: settings by name; a section is a mapping.
        where: the origin of the values, for the message.
        assigned: dotted keys of values that come from `--set`.

    Raises:
        UsageError: a key is unknown or a value is not valid.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        named = tuple(assigned)
        found = [explain(each, Config, named) for each in error.errors()]
        prefix = "" if all(text.startswith("--set ") for text in found) else f"{where}: "
        raise UsageError(f"{prefix}{'; '.join(found)}") from None

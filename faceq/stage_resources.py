"""The settings for the resources of each stage: CPUs, GPUs, number of actors and size of batches."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A section of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Encoding = Literal["bytes", "base64"]


class Read(Strict):
    """How the input is read, and the resources of the tasks that read it and write the rows."""

    num_cpus: float = Field(
        0.25, gt=0, description="Logical CPUs of one task. A task that decodes videos takes a whole core."
    )
    animated: Literal["first", "frames"] = Field(
        "first",
        description="Which frames of an animated GIF, WebP or PNG to score. `first`: the first one. "
        "`frames`: all of them, or those that `video` selects. In tars and Parquet files, always the first "
        "one.",
    )
    encoding: Encoding = Field(
        "bytes",
        description="How Parquet shards store images. `base64`: also as base64 text or data URLs, if a shard "
        "has no other images.",
    )


Device = Literal["auto", "cpu", "cuda"]

HALF_A_GPU = 0.5
"""Default `num_gpus` of an actor that runs on CUDA: the two pools share one GPU."""


class Stage(Strict):
    """Resources of a stage that runs models."""

    num_cpus: float = Field(
        0.5,
        gt=0,
        description="Logical CPUs of one task or actor, for Ray's scheduling. On CPUs, a model runs one "
        "thread per whole CPU, and at least one.",
    )
    num_gpus: float = Field(
        0.0,
        ge=0,
        description="Number of GPUs for one task or actor; 0.5 is half a GPU. If it is above 0, the models "
        "run on CUDA.",
    )
    device: Device = Field(
        "auto",
        description="Where the models run. `auto`: on CUDA if `num_gpus` is above 0; `serfiq` and `dbcnn` "
        "also use a GPU of the machine on which the job starts. `cuda`: on CUDA, with half a GPU unless you "
        "set `num_gpus`; the job fails without a GPU. `cpu`: on CPUs; `num_gpus` is ignored.",
    )
    min_size: int = Field(1, ge=1, description="Minimum number of actors in the pool.")
    initial_size: int | None = Field(
        None, ge=1, description="Number of actors in the pool at the start. Default: `min_size`."
    )
    max_size: int | None = Field(
        None,
        ge=1,
        description="Maximum number of actors in the pool. Default: as many as fit on the GPUs or CPUs of "
        "the cluster; on one machine without a GPU, half the number of its CPUs.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Frames in one batch. If you do not set it, it is 256 if `auto` finds a GPU, four "
        "mini-batches for `find_face` on a GPU, and 8 if one frame takes seconds on the CPUs of one machine.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_cuda_share(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("device") == "cuda" and not values.get("num_gpus"):
            return {**values, "num_gpus": HALF_A_GPU}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> "Stage":
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
        """`cuda` or `cpu`; `auto` is resolved by `num_gpus`."""
        if self.device == "auto":
            return "cuda" if self.num_gpus > 0 else "cpu"
        return self.device


MINI_BATCHES_IN_A_BATCH = 4
"""Default batch size of a stage on a GPU, in mini-batches: some frames drop out, others take more passes."""


class FindFaces(Stage):
    """Resources of decoding, face detection and landmarks. Without `num_gpus`, these run as Ray tasks on all
    free CPUs, and the pool sizes are ignored. With `num_gpus`, they run as a pool of actors: the models run
    on the GPU, and `num_cpus` threads decode and crop. On one machine without GPUs, one process per CPU runs
    all stages, unless you set `num_cpus`, a pool size or `batch_size` for a stage."""

    mini_batch: int = Field(
        32,
        ge=1,
        description="On a GPU, the number of images per forward pass of a model. The model always gets this "
        "many: smaller mini-batches are padded. Images above 320 pixels take proportionally fewer. Not used "
        "on CPUs.",
    )

    @model_validator(mode="after")
    def _default_gpu_batch(self) -> "FindFaces":
        if self.runs_on == "cuda" and "batch_size" not in self.model_fields_set:
            object.__setattr__(self, "batch_size", MINI_BATCHES_IN_A_BATCH * self.mini_batch)
        return self


class Pool(Stage):
    """Resources of a stage that runs as a pool of actors. Each actor keeps a model in memory."""

    mini_batch: int = Field(
        4,
        ge=1,
        description="Frames per forward pass of the model. The model always gets this many: smaller "
        "mini-batches are padded. A mini-batch holds only frames that still need the model. If you do not "
        "set it, it is 64 if `auto` finds a GPU.",
    )

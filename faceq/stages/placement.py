"""The resources that the stages request, and the assignment of their pools to the available GPUs."""

from dataclasses import dataclass

from faceq.config import FRAME_REGIONS, Config
from faceq.runtime import device
from faceq.stage_resources import HALF_A_GPU, MINI_BATCHES_IN_A_BATCH, Pool, Stage

MINI_BATCH_ON_GPU = 64
BATCH_ON_GPU = MINI_BATCHES_IN_A_BATCH * MINI_BATCH_ON_GPU
"""Default mini-batch and batch size of a pool on a GPU, in frames. The CPU defaults, mini-batches of 4 in
batches of 32, would leave a GPU waiting for its host. Frames that were dropped in an earlier stage leave gaps
in a batch, so it is several mini-batches long."""

CROPS_OF_A_FACE = 3 * (112**2 + 256**2)
CROPS_OF_A_FRAME = 3 * (112**2 + 384**2)
"""Bytes of the pixels of a face between the stages, and the same if DB-CNN scores the whole frame."""

CROPS_IN_A_BATCH = 1 << 29
"""With `faces: all`, the most bytes of pixels in a batch, if every frame has `max_faces` faces. A process
needs a few times as many, and Arrow's binary values end at four times as many."""

SHARE_OF_A_CPU = 0.75
"""Logical CPUs of a process that runs all stages. The rest of each CPU is for tasks that read and write."""

OWN_RESOURCES = frozenset({"num_cpus", "min_size", "initial_size", "max_size", "batch_size"})
"""If one of these settings is given for a stage, the stages do not share processes."""


@dataclass(frozen=True)
class Request:
    """The resources of one task or actor of a stage. For the job to make progress, `count` of them must run
    at the same time."""

    stage: str
    count: int
    cpus: float
    gpus: float = 0.0


def shared_pool(config: Config, cpus: float) -> Stage | None:
    """The pool of processes that run all stages on the CPUs of one machine; None if each stage has its own
    processes.

    There is one process for each CPU, or fewer if a task that reads needs the room. So no CPU waits because
    one stage is slower than another, and no crops pass between processes. Each stage has its own processes if
    a stage is on a GPU, or if the settings give a stage one of OWN_RESOURCES.
    """
    stages: tuple[Stage, ...] = (config.find_face, config.serfiq, config.dbcnn)
    if any(stage.runs_on == "cuda" or stage.model_fields_set & OWN_RESOURCES for stage in stages):
        return None
    count = max(1, int(min(cpus, (cpus - config.read.num_cpus) / SHARE_OF_A_CPU)))
    return Stage(num_cpus=SHARE_OF_A_CPU, min_size=count, max_size=count)


def requests(config: Config, shared: Stage | None = None) -> list[Request]:
    """The minimum that must run at the same time: each pool at its minimum size, and one task to feed them.

    `shared`: the pool that runs all stages, if there is one.
    """
    if shared:
        return [
            Request("scoring", shared.min_size, shared.num_cpus),
            Request("read", 1, config.read.num_cpus),
        ]
    pools: list[tuple[str, Stage]] = [("serfiq", config.serfiq), ("dbcnn", config.dbcnn)]
    feeding = max(config.read.num_cpus, config.find_face.num_cpus)
    if config.find_face.num_gpus:
        pools, feeding = [*pools, ("find_face", config.find_face)], config.read.num_cpus
    asked = [Request(name, pool.min_size, pool.num_cpus, pool.num_gpus) for name, pool in pools]
    return [*asked, Request("read" if config.find_face.num_gpus else "find_face", 1, feeding)]


def frames_at_once(config: Config, frames: int) -> int:
    """Number of frames in a batch, at most `frames`, that keeps it below CROPS_IN_A_BATCH."""
    if not config.all_faces:
        return frames
    of_a_face = CROPS_OF_A_FRAME if config.quality_region in FRAME_REGIONS else CROPS_OF_A_FACE
    return max(1, min(frames, CROPS_IN_A_BATCH // (config.max_faces * of_a_face)))


def with_bounded_batches(config: Config) -> Config:
    """The settings, with `frames_at_once` in the batches of each stage."""
    if not config.all_faces:
        return config
    stages: dict[str, Stage] = {name: getattr(config, name) for name in ("find_face", "serfiq", "dbcnn")}
    most = {name: frames_at_once(config, stage.batch_size) for name, stage in stages.items()}
    return config.model_copy(
        update={name: stage.model_copy(update={"batch_size": most[name]}) for name, stage in stages.items()}
    )


def on_this_machine(config: Config) -> Config:
    """The settings for a job on this machine alone: `on_gpus` with the GPUs that models can run on."""
    return on_gpus(config, device.usable_gpus())


def on_gpus(config: Config, gpus: float) -> Config:
    """Adapt the settings to a machine with this many usable GPUs.

    Pools whose device is `auto` share the GPUs that the other pools leave, with at most half a GPU for each
    actor, and get matching batch sizes. They stay on the CPU if no GPU is left.
    """
    pools = {"serfiq": config.serfiq, "dbcnn": config.dbcnn}
    taken = sum(stage.min_size * stage.num_gpus for stage in (config.find_face, *pools.values()))
    open_ones = [name for name, pool in pools.items() if pool.device == "auto" and not pool.num_gpus]
    needed = sum(pools[name].min_size for name in open_ones)
    if not needed or taken >= gpus:
        return config
    share = min(HALF_A_GPU, (gpus - taken) / needed)
    return config.model_copy(update={name: _on_gpu(pools[name], share) for name in open_ones})


def _on_gpu(pool: Pool, share: float) -> Pool:
    """The pool with this share of a GPU for each actor, and with batch sizes for GPUs unless they are set."""
    batch = pool.batch_size if "batch_size" in pool.model_fields_set else BATCH_ON_GPU
    mini_batch = pool.mini_batch if "mini_batch" in pool.model_fields_set else min(MINI_BATCH_ON_GPU, batch)
    return pool.model_copy(update={"num_gpus": share, "batch_size": batch, "mini_batch": mini_batch})

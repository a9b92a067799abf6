"""What the stages ask for, and which of their pools run on the GPUs that are there."""

from dataclasses import dataclass

from faceq.config import HALF_A_GPU, Config, Pool, Stage

MINI_BATCH_ON_GPU = 64
BATCH_ON_GPU = 4 * MINI_BATCH_ON_GPU
"""Frames that a pool shows its model and takes at a time, where a GPU is found for it and nothing is set.
The defaults, 8 of 32, are for CPUs: with them a GPU waits for its host. Frames that fell out leave gaps in
a batch, so it is several mini-batches long."""


@dataclass(frozen=True)
class Request:
    """What one task or actor of a stage asks for; `count` of them must run at once for the job to go on."""

    stage: str
    count: int
    cpus: float
    gpus: float = 0.0


def requests(config: Config) -> list[Request]:
    """The least that has to run at once: each pool at its smallest, beside one task that feeds it."""
    pools: list[tuple[str, Stage]] = [("serfiq", config.serfiq), ("dbcnn", config.dbcnn)]
    feeding = max(config.read.num_cpus, config.find_face.num_cpus)
    if config.find_face.num_gpus:
        pools, feeding = [*pools, ("find_face", config.find_face)], config.read.num_cpus
    asked = [Request(name, pool.min_size, pool.num_cpus, pool.num_gpus) for name, pool in pools]
    return [*asked, Request("read" if config.find_face.num_gpus else "find_face", 1, feeding)]


def on_gpus(config: Config, gpus: float) -> Config:
    """The settings for a machine with this many GPUs that models can run on.

    Pools whose device is `auto` share what the others leave of the GPUs, with half a GPU at most for each
    actor, and take batches to match; they stay on the CPU if nothing is left.
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
    """The pool with this share of a GPU for each actor, in batches of a GPU's size unless they are set."""
    batch = pool.batch_size if "batch_size" in pool.model_fields_set else BATCH_ON_GPU
    mini_batch = pool.mini_batch if "mini_batch" in pool.model_fields_set else min(MINI_BATCH_ON_GPU, batch)
    return pool.model_copy(update={"num_gpus": share, "batch_size": batch, "mini_batch": mini_batch})

"""Whether the machines of a Ray cluster can run the stages of a job at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from faceq.stages.placement import Request


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs of a node, as Ray counts them."""

    cpus: float
    gpus: float = 0.0


def shortage(asked: Sequence[Request], machines: Sequence[Machine], local: bool = False) -> str | None:
    """What the stages request and the machines lack, in one sentence; None if the job can run.

    `local`: the only machine is the one that the user sits at; otherwise they are those of a cluster.
    """
    what = f"{len(machines)} machines have" if len(machines) != 1 else "the machine has"
    for request in asked:
        if not any(m.cpus >= request.cpus and m.gpus >= request.gpus for m in machines):
            text = (
                f"each process of {request.stage} requests {_amount(request.cpus, request.gpus)}, and "
                f"{_largest(machines, local)}"
            )
            without = not local and request.gpus and not any(m.gpus for m in machines)
            return f"{text}: without GPUs, leave out num_gpus" if without else text
    for name, needed, there in (
        ("CPUs", sum(r.count * r.cpus for r in asked), sum(m.cpus for m in machines)),
        ("GPUs", sum(r.count * r.gpus for r in asked), sum(m.gpus for m in machines)),
    ):
        if needed > there + 1e-9:
            return f"the stages request at least {needed:g} {name}, {what} {there:g}"
    return None


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")


def _largest(machines: Sequence[Machine], local: bool) -> str:
    if not machines:
        return "the cluster has no machine"
    largest = max(machines, key=lambda m: (m.gpus, m.cpus))
    has = f"has {largest.cpus:g} CPUs and {largest.gpus:g} GPUs"
    return f"this machine {has}" if local else f"the cluster's largest machine {has}"

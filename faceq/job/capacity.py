"""Estimates the machines, hours and cost that a job of many frames takes; not measured.

The CPU costs of a frame were measured on one core. The GPU costs follow from the arithmetic of the networks
and the GPUs' published figures. `docs/explanation/capacity.md` explains each number.
"""

from dataclasses import dataclass, replace

from faceq.errors import UsageError


@dataclass(frozen=True)
class Cost:
    """The cost of a frame: a 384x384 JPEG with one face that gets both scores.

    cpu_ms: time of one CPU for decoding, landmarks and crops, and for detection if it runs on the CPU.
    host_ms: time of one CPU of the machine with the GPU, to feed it. gflop: floating-point operations on the
    GPU (a multiplication and an addition are two). efficiency: share of the GPU's peak arithmetic that the
    layers reach. gpu_bytes: read and written in the GPU's memory. read_bytes: read from storage.
    object_bytes: passed through Ray's object store.
    """

    cpu_ms: float
    host_ms: float
    gflop: float
    efficiency: float
    gpu_bytes: float
    read_bytes: float
    object_bytes: float


@dataclass(frozen=True)
class Machine:
    """A machine type. cpus: vCPUs (threads). card, cards: type and number of its GPUs. tflops: TFLOP/s of
    each GPU in half precision. bandwidth: GB/s of each GPU's memory. network: Gbit/s."""

    name: str
    cpus: int
    card: str
    cards: int
    tflops: float
    bandwidth: float
    network: float


QUALITY_GFLOP = 1.46
"""DB-CNN-Lite on a crop of 256x256."""

RECOGNISER_GFLOP = 1.15
"""SFace on a face of 112x112."""

THIN, WIDE = 0.15, 0.33
"""Share of a GPU's peak arithmetic that thin and depthwise convolutions reach, and wide ones."""

DRAWS_GFLOP = 2.6
"""The last layer of ArcFace R50, 25,088 to 512, in 100 passes: the layers before it are not repeated."""

JPEG_MS = 1.0
"""Time to write a frame of 384x384 as a JPEG and to read it again."""

DRAWS_HOST_MS = 2.5
"""Time to draw the dropout masks of these passes, 2.5 million units, on the host."""

SCRFD_GFLOP = 53.4
"""Two detection passes of SCRFD-10G at 640x640: the second one is for faces that fill the frame."""

_EMBEDDED = Cost(
    cpu_ms=16.5,
    host_ms=2.0,
    gflop=QUALITY_GFLOP + RECOGNISER_GFLOP,
    efficiency=THIN,
    gpu_bytes=340e6,
    read_bytes=60e3,
    object_bytes=492e3,
)
# ArcFace R50, SCRFD and VGG-16 on the GPU. Landmarks, a hundredth of SCRFD, are counted with it.
_INSIGHTFACE = Cost(
    cpu_ms=3.0,
    host_ms=3.0,
    gflop=12.6 + 43.1 + SCRFD_GFLOP,
    efficiency=WIDE,
    gpu_bytes=1.5e9,
    read_bytes=60e3,
    object_bytes=492e3,
)
COSTS = {
    "embedded": _EMBEDDED,
    "insightface": _INSIGHTFACE,
    "cafi": replace(
        _INSIGHTFACE,
        cpu_ms=3.0 + JPEG_MS,
        host_ms=3.0 + DRAWS_HOST_MS,
        gflop=12.6 + DRAWS_GFLOP + 96.9 + SCRFD_GFLOP,
        gpu_bytes=2e9,
        object_bytes=982e3,
    ),
}
"""By preset. `embedded` finds faces on CPUs, the others on the GPU, with `find_face.num_gpus`."""

CPU_GFLOP_S = 86
"""GFLOP/s that one core reached with DB-CNN-Lite, measured."""

MEMORY_EFFICIENCY = 0.7
"""Share of `bandwidth` that a sequence of layers reaches."""

RAY_EFFICIENCY = 0.85
"""Share of the rate of the stages alone that a job reaches with Ray's overhead: faceq's own target."""

NETWORK_EFFICIENCY = 0.5
"""Share of the network's bandwidth that small reads reach."""

OBJECT_STORE_BYTES_S = 1e9
"""Bytes that one CPU copies into Ray's object store per second, measured; reading copies nothing."""

MEMORY_BYTES_S = 20e9
"""Memory bandwidth of a machine that is available for these copies, bytes/s."""

START_UP_HOURS = 0.15
"""From the request for a machine to its first frame: boot, image, setup."""

_A10G, _L4 = ("A10G", 1, 70, 600), ("L4", 1, 121, 300)
MACHINES = (
    Machine("g5.xlarge", 4, *_A10G, 2.5),
    Machine("g5.4xlarge", 16, *_A10G, 10),
    Machine("g5.8xlarge", 32, *_A10G, 25),
    Machine("g5.16xlarge", 64, *_A10G, 25),
    Machine("g5.48xlarge", 192, "A10G", 8, 70, 600, 100),
    Machine("g6.xlarge", 4, *_L4, 2.5),
    Machine("g6.4xlarge", 16, *_L4, 10),
    Machine("g6.8xlarge", 32, *_L4, 25),
    Machine("g6.16xlarge", 64, *_L4, 25),
    Machine("g6.48xlarge", 192, "L4", 8, 121, 300, 100),
    Machine("p4d.24xlarge", 96, "A100", 8, 312, 1555, 400),
    Machine("p5.48xlarge", 192, "H100", 8, 989, 3350, 3200),
)
"""Published figures of AWS and NVIDIA; where the network is sold as `up to`, the sustained bandwidth."""

CLASSES = {"g5": "g5.8xlarge", "g6": "g6.4xlarge", "p4d": "p4d.24xlarge", "p5": "p5.48xlarge"}
"""For a class without a size: the size whose CPUs best match its GPU."""

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def machine(kind: str) -> Machine:
    """The machine with that name, class (g5) or GPU (A10G); a UsageError for other names lists the known
    ones."""
    wanted = kind.lower()
    name = CLASSES.get(wanted, wanted)
    for found in MACHINES:
        if found.name == name or (found.card.lower() == wanted and found.name in CLASSES.values()):
            return found
    raise UsageError(
        f"plan: unknown machine {kind!r}: choose one of {', '.join(CLASSES)}, "
        f"{', '.join(sorted({known.card for known in MACHINES}))}, {', '.join(m.name for m in MACHINES)}"
    )


def capacity(there: Machine, cost: Cost) -> dict[str, float]:
    """Frames/s that each part of a machine could process if the other parts were no limit."""
    return {
        "CPUs": RAY_EFFICIENCY * there.cpus * 1000 / (cost.cpu_ms + cost.host_ms),
        "GPUs": RAY_EFFICIENCY * there.cards * gpu_rate(there, cost),
        "network": NETWORK_EFFICIENCY * there.network * 1e9 / 8 / cost.read_bytes,
        "Ray object store": min(OBJECT_STORE_BYTES_S * there.cpus, MEMORY_BYTES_S) / cost.object_bytes,
    }


def cpu_seconds(preset: str, passes: int | None) -> float:
    """CPU seconds of a frame that gets both scores, if all models run on CPUs; `passes`: the dropout passes
    of SER-FIQ."""
    cost, counted = COSTS[preset], 100 if preset == "cafi" else 0
    drawn = DRAWS_GFLOP * ((passes or 0) - counted) / 100
    return cost.cpu_ms / 1000 + (cost.gflop + drawn) / CPU_GFLOP_S


def gpu_rate(there: Machine, cost: Cost) -> float:
    """Faces/s of one GPU: limited by its arithmetic or its memory, whichever is slower."""
    arithmetic = cost.efficiency * there.tflops * 1000 / cost.gflop
    memory = MEMORY_EFFICIENCY * there.bandwidth * 1e9 / cost.gpu_bytes
    return min(arithmetic, memory)


def hours(frames: int, rate: float, machines: int) -> float:
    """Hours from the request for the machines to the last row; `rate`: frames/s of one machine."""
    return START_UP_HOURS + frames / (rate * machines) / 3600


def text(frames: int, kind: str, price: float | None, preset: str = "embedded") -> str:
    """The plan as a person reads it.

    Args:
        frames: number of frames to score.
        kind: a machine, its class or its GPU.
        price: of one machine for one hour, in any currency.
        preset: set of models.

    Raises:
        UsageError: an unknown machine.
    """
    there = machine(kind)
    rates = capacity(there, COSTS[preset])
    bound, rate = min(rates.items(), key=lambda part: part[1])
    feeding = there.cpus * rates["GPUs"] / rates["CPUs"] / there.cards
    lines = [
        f"{there.name}: {there.cpus} vCPUs, {there.cards} {there.card}, {there.network:g} Gbit/s; {preset}",
        "",
        "part                frames/s",
        *(
            f"{part:<16}{most:>12,.0f}{'   the bottleneck' if part == bound else ''}"
            for part, most in rates.items()
        ),
        "",
        f"expected {rate:,.0f} frames/s per machine, {rate / there.cards:,.0f} per GPU",
        f"the GPUs are busy {rate / rates['GPUs']:.0%} of the time",
        f"feeding one GPU takes {feeding:,.0f} vCPUs, on its own machine or on CPU workers",
        "",
        f"{'machines':>8}{'hours':>10}{'machine hours':>16}" + ("" if price is None else f"{'cost':>14}"),
    ]
    for count in COUNTS:
        needed = hours(frames, rate, count)
        cost = "" if price is None else f"{needed * count * price:>14,.2f}"
        lines.append(f"{count:>8}{needed:>10,.2f}{needed * count:>16,.1f}{cost}")
        if needed < 2 * START_UP_HOURS:
            break  # more machines would mostly start up
    if preset != "embedded":
        lines += ["", "assumes that faces are found on the GPU: find_face: { num_gpus: 0.2 }, 0.4 per pool"]
    if price is not None:
        lines += [
            "",
            f"cost: the GPU machines only, at the price that you gave ({price:g} an hour, on-demand or spot)",
            "not included: the head, CPU workers and S3 requests",
        ]
    lines += ["", "estimated, not measured: see docs/explanation/capacity.md"]
    if price is None:
        lines.append("no costs: add --price-per-hour X, the price of one machine per hour, to see them")
    return "\n".join(lines)

"""What a job of many frames takes: machines, hours, and money; reasoned, not measured.

The costs of a frame on CPUs were measured on one core, those on GPUs follow from the networks' arithmetic and
the cards' public figures. `docs/explanation/capacity.md` says how each number came about.
"""

from dataclasses import dataclass, replace

from faceq.errors import UsageError


@dataclass(frozen=True)
class Cost:
    """What a frame costs: 384x384 JPEG with one face, scored to its end.

    cpu_ms: of one CPU, for decoding, landmarks and crops, and for detection where it stays there. host_ms: of
    one CPU of the machine with the GPU, to feed it. gflop: floating-point operations on the card (a
    multiplication and an addition are two). efficiency: share of a card's arithmetic that their layers
    reach. gpu_bytes: that these read and write in a card's memory. read_bytes: that are read from storage.
    object_bytes: that cross Ray's object store.
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
    """A kind of machine: CPUs (threads, as clouds sell them), cards; of each card TFLOP/s in half precision
    and GB/s of its memory; Gbit/s of the network."""

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
"""Share of a card's arithmetic that thin and depthwise convolutions reach, and wide ones."""

DRAWS_GFLOP = 2.6
"""The last layer of ArcFace R50, 25,088 to 512, in 100 passes: nothing before it is repeated."""

JPEG_MS = 1.0
"""To write a frame of 384x384 as a JPEG and to read it again."""

DRAWS_HOST_MS = 2.5
"""To draw the masks of these passes, 2.5 million units, on the host."""

SCRFD_GFLOP = 53.4
"""Two looks of SCRFD-10G at 640x640: the second one is for faces that fill the frame."""

_EMBEDDED = Cost(
    cpu_ms=16.5,
    host_ms=2.0,
    gflop=QUALITY_GFLOP + RECOGNISER_GFLOP,
    efficiency=THIN,
    gpu_bytes=340e6,
    read_bytes=60e3,
    object_bytes=492e3,
)
# ArcFace R50, SCRFD and VGG-16 on the card; landmarks counted with SCRFD, being a hundredth of it.
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
"""By preset. `embedded` finds faces on CPUs, the others on the card, which `find_face.num_gpus` asks for."""

CPU_GFLOP_S = 86
"""That one core reached with DB-CNN-Lite, as measured."""

MEMORY_EFFICIENCY = 0.7
"""Share of `bandwidth` that layer after layer reaches."""

RAY_EFFICIENCY = 0.85
"""Share of the bare stages' rate that a job reaches beside Ray's own work: what faceq asks of itself."""

NETWORK_EFFICIENCY = 0.5
"""Share of the network that small reads reach."""

OBJECT_STORE_BYTES_S = 1e9
"""That one CPU copies into Ray's object store in a second, as measured; reading copies nothing."""

MEMORY_BYTES_S = 20e9
"""That a machine's memory has to spare for these copies."""

START_UP_HOURS = 0.15
"""From asking for a machine to its first frame: boot, image, setup."""

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
"""AWS's and NVIDIA's own figures; of a network that is sold as `up to`, what is sustained."""

CLASSES = {"g5": "g5.8xlarge", "g6": "g6.4xlarge", "p4d": "p4d.24xlarge", "p5": "p5.48xlarge"}
"""A class alone means the size whose CPUs come nearest to feeding its card."""

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def machine(kind: str) -> Machine:
    """The machine of that name, class (g5) or card (A10G); UsageError with the known ones for another."""
    wanted = kind.lower()
    name = CLASSES.get(wanted, wanted)
    for found in MACHINES:
        if found.name == name or (found.card.lower() == wanted and found.name in CLASSES.values()):
            return found
    raise UsageError(
        f"plan: no machine is called {kind!r}: known are {', '.join(CLASSES)}, "
        f"{', '.join(sorted({known.card for known in MACHINES}))}, {', '.join(m.name for m in MACHINES)}"
    )


def capacity(there: Machine, cost: Cost) -> dict[str, float]:
    """Frames/s that each part of a machine could do, if the others were free."""
    return {
        "CPUs": RAY_EFFICIENCY * there.cpus * 1000 / (cost.cpu_ms + cost.host_ms),
        "GPUs": RAY_EFFICIENCY * there.cards * gpu_rate(there, cost),
        "network": NETWORK_EFFICIENCY * there.network * 1e9 / 8 / cost.read_bytes,
        "object store": min(OBJECT_STORE_BYTES_S * there.cpus, MEMORY_BYTES_S) / cost.object_bytes,
    }


def cpu_seconds(preset: str, passes: int | None) -> float:
    """CPU seconds of a frame that is scored to its end, where all models run on CPUs; `passes`: the dropout
    passes of SER-FIQ."""
    cost, counted = COSTS[preset], 100 if preset == "cafi" else 0
    drawn = DRAWS_GFLOP * ((passes or 0) - counted) / 100
    return cost.cpu_ms / 1000 + (cost.gflop + drawn) / CPU_GFLOP_S


def gpu_rate(there: Machine, cost: Cost) -> float:
    """Faces/s of one card: its arithmetic or its memory, whichever is less."""
    arithmetic = cost.efficiency * there.tflops * 1000 / cost.gflop
    memory = MEMORY_EFFICIENCY * there.bandwidth * 1e9 / cost.gpu_bytes
    return min(arithmetic, memory)


def hours(frames: int, rate: float, machines: int) -> float:
    """From asking for the machines to the last row; `rate`: of one of them, frames/s."""
    return START_UP_HOURS + frames / (rate * machines) / 3600


def text(frames: int, kind: str, price: float | None, preset: str = "embedded") -> str:
    """The plan as people read it.

    Args:
        frames: to be scored.
        kind: a machine, its class or its card.
        price: of one machine for an hour, in any currency.
        preset: whose models score them.

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
        "part              frames/s",
        *(
            f"{part:<14}{most:>12,.0f}{'   the bottleneck' if part == bound else ''}"
            for part, most in rates.items()
        ),
        "",
        f"expected {rate:,.0f} frames/s a machine, {rate / there.cards:,.0f} a GPU",
        f"the GPUs are busy {rate / rates['GPUs']:.0%} of the time; {feeding:,.0f} vCPUs feed one of them, "
        "those of CPU workers counted",
        "",
        f"{'machines':>8}{'hours':>10}{'machine hours':>16}" + ("" if price is None else f"{'money':>14}"),
    ]
    for count in COUNTS:
        needed = hours(frames, rate, count)
        money = "" if price is None else f"{needed * count * price:>14,.2f}"
        lines.append(f"{count:>8}{needed:>10,.2f}{needed * count:>16,.1f}{money}")
        if needed < 2 * START_UP_HOURS:
            break  # more machines would mostly start up
    if preset != "embedded":
        lines += ["", "with faces found on the card, too: find_face: { num_gpus: 0.2 }, 0.4 for each pool"]
    lines += ["", "reasoned, not measured: docs/explanation/capacity.md says from what"]
    return "\n".join(lines)

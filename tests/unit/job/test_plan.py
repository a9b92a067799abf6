"""The capacity plan: its assumptions and its output."""

import io

import pytest
import torch
from PIL import Image
from places import ROOT
from torch.utils.flop_counter import FlopCounterMode

from faceq import config
from faceq.cli import main
from faceq.errors import UsageError
from faceq.faces import geometry
from faceq.iqa.dbcnn_lite import DBCNNLite
from faceq.iqa.dbcnn_lite_weights import FIRST
from faceq.job import capacity
from faceq.sources.frame import Frame, to_table
from faceq.stages.scorer import stages_of

PAGE = ROOT / "docs" / "explanation" / "capacity.md"


def test_the_operation_counts_are_those_of_the_networks():
    """The test counts the operations of DB-CNN-Lite. The rest is the recogniser, an ONNX file, and
    smaller."""
    images = torch.zeros(1, 3, geometry.CROP_SIZE, geometry.CROP_SIZE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        DBCNNLite(FIRST).eval()(images, torch.ones(1, 1, geometry.CROP_SIZE, geometry.CROP_SIZE))
    counted = counter.get_total_flops() / 1e9
    assert 0.9 * counted < capacity.QUALITY_GFLOP < 1.1 * counted


def test_many_gpus_wait_for_cpus_and_one_gpu_does_not():
    found = {name: bottleneck(capacity.machine(name), "embedded") for name in ("p5", "p4d", "g5.xlarge")}
    assert set(found.values()) == {"CPUs"}
    found = {name: bottleneck(capacity.machine(name), "embedded") for name in ("g5.16xlarge", "g6.16xlarge")}
    assert set(found.values()) == {"GPUs"}


def bottleneck(machine: capacity.Machine, preset: str) -> str:
    rates = capacity.capacity(machine, capacity.COSTS[preset])
    return min(rates, key=lambda part: rates[part])


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
@pytest.mark.parametrize("kind", capacity.CLASSES)
def test_large_networks_on_the_gpu_do_not_wait_for_cpus(preset, kind, capsys):
    assert main.main(["plan", "--frames", "1000", "--gpu", kind, "--preset", preset]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "the bottleneck" in line]
    assert line.startswith("GPUs")


@pytest.mark.parametrize("machine", capacity.MACHINES, ids=lambda machine: machine.name)
def test_the_page_shows_the_output_of_the_command(machine):
    rates = capacity.capacity(machine, capacity.COSTS["embedded"])
    (cells,) = rows_of_the_page(f"`{machine.name}`")
    assert numbers(cells[3:7]) == [round(rate, -1) for rate in rates.values()]
    assert cells[7] == bottleneck(machine, "embedded")


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
def test_the_page_shows_the_output_of_the_command_for_other_presets(preset):
    rows = [cells for cells in rows_of_the_page(f"`{preset}`") if cells[1] in capacity.CLASSES.values()]
    assert [cells[1] for cells in rows] == list(capacity.CLASSES.values())
    for cells in rows:
        there = capacity.machine(cells[1])
        rates = capacity.capacity(there, capacity.COSTS[preset])
        assert numbers(cells[2:5]) == [
            round(rates[part], -1) for part in ("CPUs", "GPUs", "Ray object store")
        ]
        assert cells[5] == bottleneck(there, preset)


def rows_of_the_page(first: str) -> list[list[str]]:
    """Cells of the table rows that begin with the given cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith(f"| {first} |")]


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in cells]


def test_object_store_bytes_are_those_of_the_stages_columns(astronaut):
    """Bytes of the encoded frame, and of the columns passed from stage to stage."""
    settings = config.build({"fiq_threshold": 0})
    shown = io.BytesIO()
    Image.fromarray(astronaut).resize((384, 384)).save(shown, "JPEG")
    table = to_table([Frame(str(number), None, 0, shown.getvalue()) for number in range(16)])
    pixels = []
    for stage in stages_of(settings):
        table = stage(table)
        pixels.append(
            sum(table[name].nbytes for name in ("aligned", "crop", "outline") if name in table.column_names)
        )
    a_frame = capacity.COSTS["embedded"].read_bytes + sum(pixels) / len(table)
    assert pixels[2] == 0 and capacity.COSTS["embedded"].object_bytes == pytest.approx(a_frame, rel=0.02)


def test_twice_the_frames_take_twice_the_hours_and_twice_the_machines_half():
    once = capacity.hours(10_000_000, 100, 1) - capacity.START_UP_HOURS
    assert once == pytest.approx(10_000_000 / 100 / 3600)
    assert capacity.hours(20_000_000, 100, 2) - capacity.START_UP_HOURS == pytest.approx(once)


def test_the_command_prints_machines_hours_and_with_a_price_the_cost(capsys):
    assert main.main(["plan", "--frames", "100000000", "--gpu", "g5"]) == 0
    without = capsys.readouterr().out
    assert "g5.8xlarge" in without and "bottleneck" in without and "cost\n" not in without
    assert "--price-per-hour" in without.splitlines()[-1]
    assert main.main(["plan", "--frames", "100000000", "--gpu", "g5", "--price-per-hour", "4.10"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert not any("--price-per-hour" in line for line in printed)
    header = next(number for number, line in enumerate(printed) if line.startswith("machines"))
    machines, hours, together, cost = (float(cell.replace(",", "")) for cell in printed[header + 2].split())
    assert machines == 2 and together == pytest.approx(2 * hours, rel=0.01)
    assert cost == pytest.approx(together * 4.10, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("g6", "g6.4xlarge"), ("A100", "p4d.24xlarge"), ("h100", "p5.48xlarge"), ("g5.xlarge", "g5.xlarge")],
)
def test_a_machine_is_named_by_class_gpu_or_size(kind, name):
    assert capacity.machine(kind).name == name


def test_an_unknown_machine_is_wrong_usage_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'t4': choose one of g5, g6, p4d, p5"):
        capacity.machine("t4")

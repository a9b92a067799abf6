"""The capacity plan: what it takes for granted, and what it prints."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from faceq import cli, geometry, plan
from faceq.dbcnn import DBCNNLite
from faceq.errors import UsageError

PAGE = Path(__file__).parent.parent / "docs" / "capacity.md"


def test_the_arithmetic_is_that_of_the_networks():
    """DB-CNN-Lite is counted here; the recogniser, an ONNX file, is the rest and smaller."""
    images = torch.zeros(1, 3, geometry.CROP_SIZE, geometry.CROP_SIZE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        DBCNNLite().eval()(images, torch.ones(1, 1, geometry.CROP_SIZE, geometry.CROP_SIZE))
    counted = counter.get_total_flops() / 1e9
    assert 0.9 * counted < plan.QUALITY_GFLOP < 1.1 * counted


def test_many_cards_wait_for_cpus_and_one_card_can_be_fed():
    def bottleneck(name: str) -> str:
        rates = plan.capacity(plan.machine(name), plan.COSTS["embedded"])
        return min(rates, key=lambda part: rates[part])

    assert bottleneck("p4d") == bottleneck("g5.xlarge") == "CPUs"
    assert bottleneck("p5") == "object store"
    assert bottleneck("g5.16xlarge") == bottleneck("g6.16xlarge") == "GPUs"


@pytest.mark.parametrize("preset", ["insightface", "cafi"])
@pytest.mark.parametrize("kind", plan.CLASSES)
def test_large_networks_on_the_card_do_not_wait_for_cpus(preset, kind, capsys):
    assert cli.main(["plan", "--frames", "1000", "--gpu", kind, "--preset", preset]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "the bottleneck" in line]
    assert line.startswith("object store" if (preset, kind) == ("insightface", "p5") else "GPUs")


@pytest.mark.parametrize("machine", plan.MACHINES, ids=lambda machine: machine.name)
def test_the_page_says_what_the_command_says(machine):
    rates = plan.capacity(machine, plan.COSTS["embedded"])
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{machine.name}`" in line]
    shown = [float(cell.replace(",", "")) for cell in re.findall(r"(?<=\| )[\d,]+(?= \|)", line)]
    for part in ("CPUs", "GPUs"):
        assert round(rates[part], -1) in shown, f"{part}: {rates[part]:.0f}"


def test_twice_the_frames_take_twice_the_hours_and_twice_the_machines_half():
    once = plan.hours(10_000_000, 100, 1) - plan.START_UP_HOURS
    assert once == pytest.approx(10_000_000 / 100 / 3600)
    assert plan.hours(20_000_000, 100, 2) - plan.START_UP_HOURS == pytest.approx(once)


def test_the_command_prints_machines_hours_and_with_a_price_money(capsys):
    assert cli.main(["plan", "--frames", "100000000", "--gpu", "g5"]) == 0
    without = capsys.readouterr().out
    assert "g5.8xlarge" in without and "bottleneck" in without and "money" not in without
    assert cli.main(["plan", "--frames", "100000000", "--gpu", "g5", "--price-per-hour", "4.10"]) == 0
    printed = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(printed) if line.startswith("machines"))
    machines, hours, together, money = (float(cell.replace(",", "")) for cell in printed[header + 2].split())
    assert machines == 2 and together == pytest.approx(2 * hours, rel=0.01)
    assert money == pytest.approx(together * 4.10, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("g6", "g6.4xlarge"), ("A100", "p4d.24xlarge"), ("h100", "p5.48xlarge"), ("g5.xlarge", "g5.xlarge")],
)
def test_a_machine_goes_by_class_card_or_size(kind, name):
    assert plan.machine(kind).name == name


def test_an_unknown_machine_is_wrong_usage_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'t4': known are g5, g6, p4d, p5"):
        plan.machine("t4")

"""`faceq plan`: estimates the machines, hours and cost that a job takes."""

import argparse
import math
import re

from faceq.cli.arguments import positive
from faceq.job import capacity

_PLAN = """Estimates how long a number of frames takes on 1, 2, 5, … machines, what it costs, and which part
of a machine is the bottleneck. docs/explanation/capacity.md explains the estimates."""

_PLAN_EXAMPLES = """examples:
  faceq plan --frames 10000000 --gpu g5
  faceq plan --frames 10000000 --gpu g6.16xlarge --price-per-hour 3.40 --preset insightface
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq plan`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _PLAN, _PLAN_EXAMPLES
    add = parser.add_argument
    add("--frames", type=_frames, required=True, metavar="N", help="number of frames to score")
    sizes = ", ".join(machine.name for machine in capacity.MACHINES)
    cards = ", ".join(sorted({machine.card for machine in capacity.MACHINES}))
    what = f"AWS machine: one of {', '.join(capacity.CLASSES)}; a GPU: {cards}; or a size: {sizes}"
    add("--gpu", required=True, metavar="TYPE", help=what)
    what = "on-demand or spot price of one such machine per hour, in any currency"
    add("--price-per-hour", type=_price, metavar="X", help=what)
    add("--preset", choices=capacity.COSTS, default="embedded", help="set of models (default: embedded)")
    parser.set_defaults(run=run_plan, only_prints=lambda options: True)


def _frames(text: str) -> int:
    """A number of frames; the message for `10M` says how to write that."""
    short = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb])", text, re.IGNORECASE | re.ASCII)
    if short:
        number = round(float(short[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[short[2].lower()])
        raise argparse.ArgumentTypeError(f"write the number in digits: {number}, not {text!r}")
    return positive(text)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (price >= 0 and math.isfinite(price)):
        raise argparse.ArgumentTypeError(f"must be an amount of money of 0 or more, not {text!r}")
    return price


def run_plan(options: argparse.Namespace) -> int:
    """`faceq plan`: print the estimate."""
    print(capacity.text(options.frames, options.gpu, options.price_per_hour, options.preset))
    return 0

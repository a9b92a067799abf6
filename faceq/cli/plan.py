"""`faceq plan`: machines, hours and money of a job."""

import argparse
import math

from faceq.cli.arguments import positive
from faceq.job import capacity

_PLAN = """Prints how many machines score that many frames in how many hours, what that costs, and which part
of a machine is the bottleneck. The figures are estimates: see docs/explanation/capacity.md."""

_PLAN_EXAMPLES = """examples:
  faceq plan --frames 10000000 --gpu g5
  faceq plan --frames 10000000 --gpu g6.16xlarge --price-per-hour 3.40 --preset insightface
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq plan`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _PLAN, _PLAN_EXAMPLES
    add = parser.add_argument
    add("--frames", type=positive, required=True, metavar="N", help="frames to score")
    sizes = ", ".join(machine.name for machine in capacity.MACHINES)
    what = f"machine on AWS: {', '.join(capacity.CLASSES)}, or one of the sizes {sizes}"
    add("--gpu", required=True, metavar="TYPE", help=what)
    add("--price-per-hour", type=_price, metavar="X", help="of one machine, in any currency")
    add("--preset", choices=capacity.COSTS, default="embedded", help="set of models (embedded)")
    parser.set_defaults(run=run_plan, only_prints=lambda options: True)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (price >= 0 and math.isfinite(price)):
        raise argparse.ArgumentTypeError(f"must be an amount of money, 0 or more, not {text!r}")
    return price


def run_plan(options: argparse.Namespace) -> int:
    """`faceq plan`: print what a job will take."""
    print(capacity.text(options.frames, options.gpu, options.price_per_hour, options.preset))
    return 0

"""Measure the speed of the job compared with the limit of the machine and with CAFI as published.

    python -m jobs.benchmarks.throughput [INPUT…] [--workload W] [--frames N] [--config job.yaml]

If neither the command line nor the settings file names an input, the benchmark makes three workloads from
photos in installed packages: 384x384 JPEG frames, 1080p H.264 videos (every frame is scored), and 1024x1024
JPEG portraits. For each of them it measures, each time in its own process:

- the limit, twice: once before the job and once after it, because the speed of a machine changes. One
  single-threaded process per core, pinned to it, runs reading, all three stages and the making of result
  rows, over its share of the frames, without Ray. See `jobs.benchmarks.limit`, also for machines with GPUs;
- the job: `faceq score` on this machine, or on the cluster that RAY_ADDRESS names. It runs twice: with few
  frames and with many. The rate is the number of additional frames, divided by the additional seconds, so
  that it contains neither the start-up nor frames that were half finished when the start-up ended. Of an
  INPUT, the job runs once, and its rate is that of its summary. After the tables, the benchmark prints the
  mean load of the cluster's GPUs, if there are any. Ray Data logs its statistics of each stage;
- CAFI, for the first workload: for each face, 100 passes of the whole recogniser, then DB-CNN with VGG-16 on
  the 384x384 frame with everything but the face blacked out, one image at a time. The weights of this network
  are random, which does not change its speed.

The limit also gives the CPU time of each step. On a cluster, the limit and CAFI are those of one node, with a
GPU if the job's models use one, and all nodes must be able to reach INPUT and `out`. All faces get both
scores. Rates exclude the start-up, which lasts from the start of the job's process to the first finished
frames. Memory is the sum over the process and its children (on a cluster: the driver's only); shared pages
count once.

The rates of a machine that is busy with other work say nothing: the job has more processes than the limit, so
it gets a larger share of the cores. CPU times hardly change.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    """Measure and print the tables."""
    # Each measuring process imports this module again: it must not load what only this process needs.
    from faceq.cli.arguments import positive  # noqa: PLC0415
    from faceq.errors import JobError, UsageError  # noqa: PLC0415
    from jobs.benchmarks import comparison, workloads  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("input", nargs="*", help="images, shards, folders (default: made from photos in installed packages)")
    add("--workload", choices=list(workloads.WORKLOADS), help="only this one (default: all of them)")
    what = "number of frames (default: by workload and cores; of INPUT: all, and 1,500 for the limit)"
    add("--frames", type=positive, metavar="N", help=what)
    what = "frames for CAFI, seconds each; 0: without CAFI (default: 6)"
    add("--cafi-frames", type=int, default=6, metavar="N", help=what)
    add("--config", metavar="job.yaml", help="settings file; a temporary table goes next to its `out`")
    add("--json", metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    try:
        figures = comparison.figures_of(options)
    except (UsageError, JobError) as error:
        print(f"faceq: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    comparison.show(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure the CPU time of find_face beside its networks: what the CPUs do if the networks run on a GPU.

    python -m jobs.benchmarks.measure_host DATA [--frames 128]

DATA holds `celeba_dev/images` and `portraits_1024`. The networks run on the CPU, in the thread that calls
them, and their time is subtracted. `one by one` is the code for CPUs, `mini-batches` the code for GPUs.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
from PIL import Image

from faceq import config
from faceq.sources.frame import Frame, to_table
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace

REPEATS = 5


class TimedSession(onnxruntime.InferenceSession):
    """A session that adds up the CPU time of its runs, in seconds."""

    spent = 0.0

    def run(self, *arguments: Any, **more: Any) -> Any:
        before = time.thread_time()
        try:
            return super().run(*arguments, **more)
        finally:
            TimedSession.spent += time.thread_time() - before


def main() -> int:
    """Print milliseconds per frame, the minimum of several runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--frames", type=int, default=128, help="number of frames of each kind (128)")
    options = parser.parse_args()
    onnxruntime.InferenceSession = TimedSession
    cv2.setNumThreads(1)
    settings = config.build({"find_face": {"num_cpus": 1}})
    stages = {
        name: FindFace(settings, choose(settings), batched)
        for name, batched in {"one by one": False, "mini-batches": True}.items()
    }
    for side, folder in ((384, "celeba_dev/images"), (1024, "portraits_1024")):
        paths = sorted((options.data / folder).glob("*.jpg"))
        chosen = (paths[at % len(paths)] for at in range(options.frames))
        frames = to_table([Frame(str(at), None, 0, image) for at, image in enumerate(_jpegs(chosen, side))])
        best = dict.fromkeys(stages, (float("inf"), float("inf")))
        for _ in range(REPEATS):
            for name, stage in stages.items():
                before, TimedSession.spent = time.process_time(), 0.0
                stage(frames)
                total = time.process_time() - before
                networks = TimedSession.spent
                best[name] = min(best[name], (total - networks, networks))
        for name, (host, networks) in best.items():
            told = f"{1000 * host / len(frames):.1f} ms beside the networks"
            print(
                f"{side}x{side}, {name}: {told}, {1000 * networks / len(frames):.1f} ms in them", flush=True
            )
    return 0


def _jpegs(paths: Iterable[Path], side: int) -> Iterator[bytes]:
    """The middle square of images, resized, as JPEG."""
    for path in paths:
        with Image.open(path) as picture:
            length = min(picture.size)
            left, top = ((size - length) // 2 for size in picture.size)
            square = picture.convert("RGB").resize((side, side), box=(left, top, left + length, top + length))
        out = io.BytesIO()
        square.save(out, "JPEG", quality=92)
        yield out.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""Measure the cost of DB-CNN-Lite: operations, size, and speed compared with DB-CNN as published.

    python -m jobs.benchmarks.measure_dbcnn [--threads 2] [--rounds 5]

Prints as JSON:

- floating-point operations (two per multiply-add; both branches, pooling and head) of DB-CNN-Lite at 256x256
  and of DB-CNN with VGG-16 at 384x384;
- faces per second of DB-CNN-Lite in eager torch, in torch with channels last, and in ONNX Runtime as the job
  runs it, and of DB-CNN as published, with random weights, which do not change the time. Rounds alternate
  between the networks; the figures are medians.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from faceq.faces.geometry import CROP_SIZE
from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS
from faceq.iqa.dbcnn_vgg import DBCNN

PUBLISHED_SIDE = 384
BATCH = 8


@torch.inference_mode()
def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    lite, published = load_dbcnn_lite(DBCNN_LITE_WEIGHTS), DBCNN().eval()
    last = load_dbcnn_lite(DBCNN_LITE_WEIGHTS)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    published.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    in_onnx = OnnxQuality(lite.arrays(), BATCH, CROP_SIZE, options.threads)

    crops = np.random.default_rng(0).integers(0, 256, (BATCH, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    faces = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    faces_last = faces.contiguous(memory_format=torch.channels_last)
    frame = torch.rand(1, 3, PUBLISHED_SIDE, PUBLISHED_SIDE).contiguous(memory_format=torch.channels_last)
    mask = torch.ones(BATCH, 1, CROP_SIZE, CROP_SIZE)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "lite_torch": (lambda: lite(faces, mask), BATCH),
        "lite_torch_channels_last": (lambda: last(faces_last, mask), BATCH),
        "lite_onnxruntime": (lambda: in_onnx(crops, mask[:, 0].numpy()), BATCH),
        "published_one_at_a_time": (lambda: published(frame), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 1):
        for name, (run, count) in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first round warms up
                times[name].append((time.perf_counter() - start) / count)
    rates = {name: 1 / float(np.median(each)) for name, each in times.items()}
    figures = {
        "lite_gflops": operations(lambda: lite(faces, mask)) / BATCH / 1e9,
        "published_gflops": operations(lambda: published(frame)) / 1e9,
        "lite_megabytes": DBCNN_LITE_WEIGHTS.stat().st_size / 1e6,
        "threads": options.threads,
        "faces_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "lite_over_published": rates["lite_onnxruntime"] / rates["published_one_at_a_time"],
    }
    print(json.dumps(figures, indent=1))


def operations(run: Callable[[], Tensor]) -> float:
    """Floating-point operations of one run, two per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()

"""PyTorch: train on the frames that pass a filter, without copying them.

    python examples/pytorch_dataset.py TABLE ["serfiq >= 0.6 and dbcnn >= 55"]

Reads local image files and frames in local tar shards. Other frames are skipped: export them to tar shards
first.
"""

import io
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import faceq

READABLE = r"""timestamp_s is null and source not like 's3://%'
    and (member is null or regexp_matches(source, '\.(tar(\.(gz|bz2|xz))?|t[bgx]z|tbz2)$'))"""
"""SQL condition: the frame is not from a video, S3, a Parquet file or a .tar.zst, which tarfile reads only
from Python 3.14 on."""


class GoodFrames(IterableDataset):
    """The frames of a table that fulfil a condition, as (name, RGB uint8 tensor of (3, side, side)).

    Under DistributedDataParallel, give each process its `rank` and the number of `ranks`: each reads its own
    sources.
    """

    def __init__(self, table: str, where: str, side: int = 224, rank: int = 0, ranks: int = 1):
        good = faceq.read_table(table, f"({where}) and {READABLE}", ["source", "member"])
        self.skipped = faceq.read_table(table, where, ["source"]).num_rows - good.num_rows
        self.side, self.rank, self.ranks = side, rank, ranks
        self.sources: dict[str, set[str | None]] = {}
        for row in good.to_pylist():
            self.sources.setdefault(row["source"], set()).add(row["member"])

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        # Each worker of each rank reads every N-th source. Sorted, so that all processes have the same order.
        for source in sorted(self.sources)[self.rank * workers + number :: self.ranks * workers]:
            for name, data in read_frames(source, self.sources[source]):
                yield name, self.decode(data)

    def decode(self, data: bytes) -> torch.Tensor:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        return torch.from_numpy(np.array(image.resize((self.side, self.side)))).permute(2, 0, 1)


def read_frames(source: str, members: set[str | None]) -> Iterator[tuple[str, bytes]]:
    """The wanted frames of one image file or tar, as (name, encoded bytes)."""
    if None in members:
        yield source, Path(source).read_bytes()
        return
    seen: Counter[str] = Counter()
    with tarfile.open(source) as tar:
        for info in tar:
            seen[info.name] += 1
            times = seen[info.name]
            name = info.name if times == 1 else f"{info.name}#{times}"  # as faceq names repeated members
            if name in members:
                file = tar.extractfile(info)
                assert file
                yield name, file.read()


def main(table: str, where: str = "serfiq >= 0.6 and dbcnn >= 55") -> None:
    frames = GoodFrames(table, where)
    if frames.skipped:
        print(f"skipped {frames.skipped} frames that are not in tars or image files: export them with")
        print(f'    faceq query {table} "{where}" --export-shards DIR')
    for names, images in DataLoader(frames, batch_size=8, num_workers=2):
        print(tuple(images.shape), names[0])


if __name__ == "__main__":
    main(*sys.argv[1:3])

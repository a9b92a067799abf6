"""webdataset: drop the samples that fail a filter while the shards are read.

    python examples/webdataset_loader.py TABLE ["serfiq >= 0.6 and dbcnn >= 55"]

Reads frames in local tar shards. Other frames are skipped: export them to tar shards first.
"""

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import webdataset as wds
from PIL import Image
from webdataset.tariterators import base_plus_ext

import faceq

IN_TARS = r"""timestamp_s is null and source not like 's3://%'
    and regexp_matches(source, '\.(tar(\.(gz|bz2|xz))?|t[bgx]z|tbz2)$')"""
"""SQL condition: the frame is an image in a local tar shard, but not in a .tar.zst, which tarfile reads only
from Python 3.14 on."""


class GoodFrames:
    """Yields the frames of webdataset's samples that are in a table and pass a condition."""

    def __init__(self, table: str, where: str):
        good = faceq.read_table(table, f"({where}) and {IN_TARS}", ["source", "member"])
        self.skipped = faceq.read_table(table, where, ["source"]).num_rows - good.num_rows
        self.wanted = set()
        for row in good.to_pylist():
            key, ending = base_plus_ext(row["member"])
            if key is not None:  # webdataset does not read names without an ending
                self.wanted.add((row["source"], key, ending.lower()))
        self.shards = sorted({source for source, _, _ in self.wanted})

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Image.Image]]:
        for sample in samples:  # a sample also has its sidecars, e.g. a label in sample["cls"]
            key = sample["__key__"]
            for ending, data in sample.items():  # a.0001.jpg and a.0002.jpg are one sample with two endings
                if (sample["__url__"], key, ending) in self.wanted:
                    yield f"{key}.{ending}", Image.open(io.BytesIO(data)).convert("RGB")


def main(table: str, where: str = "serfiq >= 0.6 and dbcnn >= 55") -> None:
    good = GoodFrames(table, where)
    if good.skipped:
        print(f"skipped {good.skipped} frames that are not in tar shards: export them with")
        print(f'    faceq query {table} "{where}" --export-shards DIR')
    if good.shards:
        for name, image in wds.WebDataset(good.shards, shardshuffle=False).compose(good):
            print(name, image.size)


if __name__ == "__main__":
    main(*sys.argv[1:3])

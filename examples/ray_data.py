"""Ray Data: read and decode the frames that pass a filter on all CPUs of a machine or cluster.

    python examples/ray_data.py TABLE ["serfiq >= 0.6 and dbcnn >= 55"]

Reads image files and frames in tar shards that every node sees under the same path. Other frames are skipped:
export them to tar shards first.
"""

import io
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image, ImageOps

import faceq

READABLE = r"""timestamp_s is null and source not like 's3://%'
    and (member is null or regexp_matches(source, '\.(tar(\.(gz|bz2|xz))?|t[bgx]z|tbz2)$'))"""
"""SQL condition: the frame is not from a video, S3, a Parquet file or a .tar.zst, which tarfile reads only
from Python 3.14 on."""

SIDE = 224


def good_frames(table: str, where: str) -> ray.data.Dataset:
    """A Dataset with the columns `name` and `image`, RGB uint8 of (SIDE, SIDE, 3)."""
    sources: dict[str, list[str]] = {}
    for row in faceq.read_table(table, f"({where}) and {READABLE}", ["source", "member"]).to_pylist():
        sources.setdefault(row["source"], []).append(row["member"] or "")
    wanted = [{"source": source, "members": members} for source, members in sources.items()]
    return ray.data.from_items(wanted).flat_map(read_frames).map(decode)


def read_frames(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The wanted frames of one image file or tar, encoded."""
    members = set(row["members"])
    if "" in members:
        yield {"name": row["source"], "data": Path(row["source"]).read_bytes()}
        return
    seen: Counter[str] = Counter()
    with tarfile.open(row["source"]) as tar:
        for info in tar:
            seen[info.name] += 1
            times = seen[info.name]
            name = info.name if times == 1 else f"{info.name}#{times}"  # as faceq names repeated members
            if name in members:
                file = tar.extractfile(info)
                assert file
                yield {"name": name, "data": file.read()}


def decode(frame: dict[str, Any]) -> dict[str, Any]:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(frame["data"]))).convert("RGB")
    return {"name": frame["name"], "image": np.array(image.resize((SIDE, SIDE)))}


def main(table: str, where: str = "serfiq >= 0.6 and dbcnn >= 55") -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    count = 0
    for batch in good_frames(table, where).iter_batches(batch_size=8):
        print(batch["image"].shape, batch["name"][0])
        count += len(batch["name"])
    skipped = faceq.read_table(table, where, ["source"]).num_rows - count
    if skipped:
        print(f"skipped {skipped} frames that are not in tars or image files: export them with")
        print(f'    faceq query {table} "{where}" --export-shards DIR')


if __name__ == "__main__":
    main(*sys.argv[1:3])

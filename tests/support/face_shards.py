"""Frames in files of several kinds, for tests of stores."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import skimage
from PIL import Image


def face_shards(count: int, per_shard: int) -> dict[str, bytes]:
    """Different images of one face, 128x128, in files by name: two tars and a Parquet file with `per_shard`
    images each, then single files. `count`: of all images."""
    face = Image.fromarray(skimage.data.astronaut()[30:230, 120:320])
    images = []
    for index in range(count):
        out = io.BytesIO()
        face.rotate(index % 30 - 15).resize((128, 128)).save(out, "JPEG", quality=50 + index // 5)
        images.append(out.getvalue())
    found = {}
    for shard in range(2):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for index in range(shard * per_shard, (shard + 1) * per_shard):
                info = tarfile.TarInfo(f"{index}.jpg")
                info.size = len(images[index])
                tar.addfile(info, io.BytesIO(images[index]))
        found[f"{shard}.tar"] = out.getvalue()
    first, stop = 2 * per_shard, 3 * per_shard
    out = io.BytesIO()
    rows = pa.table({"key": [str(index) for index in range(first, stop)], "image": images[first:stop]})
    pq.write_table(rows, out)
    found["rows.parquet"] = out.getvalue()
    return found | {f"{index}.jpg": images[index] for index in range(stop, count)}

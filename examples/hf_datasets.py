"""Hugging Face datasets: a Dataset of the frames that pass a filter, with their scores.

    python examples/hf_datasets.py TABLE ["serfiq >= 0.6 and dbcnn >= 55"]

Reads local image files and frames in local tar shards. Other frames are skipped: export them to tar shards
first, and load the folder with `load_dataset(DIR)`.
"""

import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value

import faceq

READABLE = r"""timestamp_s is null and source not like 's3://%'
    and (member is null or regexp_matches(source, '\.(tar(\.(gz|bz2|xz))?|t[bgx]z|tbz2)$'))"""
"""SQL condition: the frame is not from a video, S3, a Parquet file or a .tar.zst, which tarfile reads only
from Python 3.14 on."""

SCORES = ("serfiq", "dbcnn")
FEATURES = Features(
    {"name": Value("string"), "image": Image(), **{score: Value("float32") for score in SCORES}}
)


def good_frames(table: str, where: str) -> Dataset:
    """A Dataset with the columns of FEATURES. datasets keeps a copy of the frames in its cache."""
    rows = faceq.read_table(table, f"({where}) and {READABLE}", ["source", "member", *SCORES])
    sources: dict[str, dict[str | None, dict[str, Any]]] = {}
    for row in rows.to_pylist():
        sources.setdefault(row["source"], {})[row["member"]] = {score: row[score] for score in SCORES}
    if not sources:
        return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    # With num_proc=N, datasets splits the list over N processes.
    return Dataset.from_generator(
        read_frames, features=FEATURES, gen_kwargs={"sources": list(sources.items())}
    )


def read_frames(sources: list[tuple[str, dict[str | None, dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    for source, wanted in sources:
        if None in wanted:
            yield {"name": source, "image": {"bytes": Path(source).read_bytes()}, **wanted[None]}
            continue
        seen: Counter[str] = Counter()
        with tarfile.open(source) as tar:
            for info in tar:
                seen[info.name] += 1
                times = seen[info.name]
                name = info.name if times == 1 else f"{info.name}#{times}"  # as faceq names repeated members
                if name in wanted:
                    file = tar.extractfile(info)
                    assert file
                    yield {"name": name, "image": {"bytes": file.read()}, **wanted[name]}


def main(table: str, where: str = "serfiq >= 0.6 and dbcnn >= 55") -> None:
    frames = good_frames(table, where)
    skipped = faceq.read_table(table, where, ["source"]).num_rows - len(frames)
    if skipped:
        print(f"skipped {skipped} frames that are not in tars or image files: export them with")
        print(f'    faceq query {table} "{where}" --export-shards DIR')
    for frame in frames:
        print(frame["name"], frame["image"].size, round(frame["dbcnn"], 1))


if __name__ == "__main__":
    main(*sys.argv[1:3])

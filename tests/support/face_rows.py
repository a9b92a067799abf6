"""Result tables of made-up faces, for tests of what is done with hashes and embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import EMBEDDING, SCHEMA, frame_id, schema
from faceq.table.store import Table

FACES = SCHEMA.append(EMBEDDING)


def face(name: str, **values: Any) -> dict[str, Any]:
    """The row of a photo with a face."""
    return {
        "frame_id": frame_id(f"/photos/{name}.jpg", None, 0),
        "source": f"/photos/{name}.jpg",
        "frame_index": 0,
        "status": "scored",
        "serfiq_raw": 0.9,
        "serfiq": 0.9,
        "dbcnn": 60.0,
        "run_id": "1",
        **values,
    }


def group(name: str, faces: Sequence[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """The row of a photo of several people. The first face is the main one."""
    known = {"status": "scored", "serfiq": 0.9, "dbcnn": 60.0, "face_y": 10.0, "face_w": 40.0, "face_h": 50.0}
    listed = [{"face_x": 100.0 * i, **known, **each} for i, each in enumerate(faces)]
    return face(name, **{"n_faces": len(listed), **listed[0], "faces": listed, **values})


def write_groups(folder: Path, rows: Sequence[dict[str, Any]], all_faces: bool = True) -> str:
    """Write a table of rows of `group`, as a run with `faces: all` does. Returns its path."""
    return write_faces(folder, rows, schema(embeddings=True, all_faces=all_faces))


def write_faces(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    columns: pa.Schema = FACES,
    files: int = 1,
    preset: str = "embedded",
) -> str:
    """Write a table of rows, all of status `scored`, in their order, to some files. Returns its path."""
    table = Table(str(folder), S3Settings())
    record = {"preset": preset, "models": {}, "embeddings": EMBEDDING.name in columns.names}
    table.save(Run("1", "0", [], record, {}, "", state="ended", columns=columns.names))
    place = folder / "status=scored"
    place.mkdir(parents=True, exist_ok=True)
    stored = pa.schema([field for field in columns if field.name != "status"])
    for number, some in enumerate(np.array_split(np.arange(len(rows)), files)):
        part = pa.Table.from_pylist([rows[i] for i in some], stored)
        pq.write_table(part, place / f"1-{number}.parquet")
    return str(folder)

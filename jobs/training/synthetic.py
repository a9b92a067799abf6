"""Write a result table of any length with made-up but realistic values, to measure the reading of tables.

    python -m jobs.training.synthetic 10_000_000 TABLE [--faces all]

The frames come from videos with 500 frames each. Each video has its own mean quality, so that scores cluster
by source, as in real data. 4% of the frames show no face, 2% a face that is too small, and 12% are below the
threshold. In one video of a hundred, most frames are damaged. A shot has 125 frames. With `--faces all`, a
shot shows up to four people, and each of them has a track.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from faceq import __version__, config
from faceq.stages.chosen_models import choose, comparison_record
from faceq.table.measure_columns import MEASURES
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA, STATUSES, schema_with
from faceq.table.store import COMPRESSION, Table
from jobs.training.synthetic_faces import FRAMES_PER_SHOT, with_faces

FRAMES_PER_VIDEO = 500
FRAMES_PER_SECOND = 25
VIDEOS_PER_FILE = 400
WIDTH, HEIGHT = 1280, 720
ERRORS = (
    "this video frame is damaged: the decoder concealed errors in it",
    "the image is damaged or cut off (its header cannot be read): copy or export it again",
)

# Eyes, nose tip and mouth corners of a frontal face, as fractions of the side of its box.
_LANDMARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, help="number of frames")
    parser.add_argument("table", type=Path, help="a new or empty folder")
    parser.add_argument("--faces", choices=("largest", "all"), default="largest", help="as the setting")
    options = parser.parse_args()
    write(options.table, options.rows, all_faces=options.faces == "all")
    return 0


def write(folder: Path, rows: int, rows_per_group: int = 100_000, all_faces: bool = False) -> None:
    """Write a result table with `rows` frames, with at most `rows_per_group` rows per row group.

    `all_faces`: as with `faces: all`; see `jobs.training.synthetic_faces`. The frames are the same.
    """
    faces = "all" if all_faces else "largest"
    settings = config.build({"input": ["videos"], "out": str(folder), "faces": faces})
    started, finished = "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"
    record, plain = comparison_record(settings, choose(settings)), settings.model_dump()
    run = Run("synthetic", __version__, ["videos"], record, plain, started, finished)
    columns = schema_with(run.footer())
    generator, of_faces = np.random.default_rng(7), np.random.default_rng(8)
    stored = columns.remove(columns.get_field_index("status"))
    run.counts = dict.fromkeys(STATUSES, 0)
    for number, part in enumerate(_parts(generator, rows, run.run_id)):
        if all_faces:
            video = np.arange(len(part)) // FRAMES_PER_VIDEO
            part = with_faces(part, video, settings.min_face, of_faces)  # noqa: PLW2901
        for status in STATUSES:
            chosen = part.filter(pc.equal(part["status"], status))
            run.counts[status] += len(chosen)
            if len(chosen):
                place = folder / f"status={status}" / f"{run.run_id}-{number:06d}.parquet"
                place.parent.mkdir(parents=True, exist_ok=True)
                written = chosen.drop_columns(["status"]).cast(stored)
                pq.write_table(written, place, row_group_size=rows_per_group, compression=COMPRESSION)
    run.state, run.rows, run.frames = "ended", rows, rows
    Table(str(folder), settings.s3).save(run)


def _parts(generator: np.random.Generator, rows: int, run_id: str) -> Iterator[pa.Table]:
    videos = -(-rows // FRAMES_PER_VIDEO)
    for first in range(0, videos, VIDEOS_PER_FILE):
        last = min(first + VIDEOS_PER_FILE, videos)
        count = min(rows, last * FRAMES_PER_VIDEO) - first * FRAMES_PER_VIDEO
        yield _frames(generator, first, count, run_id)


def _frames(generator: np.random.Generator, first: int, count: int, run_id: str) -> pa.Table:
    """`count` frames, in order, of the videos that start at number `first`."""
    video = first + np.arange(count) // FRAMES_PER_VIDEO
    index = np.arange(count) % FRAMES_PER_VIDEO
    own = generator.normal(0, 1, FRAMES_PER_VIDEO * VIDEOS_PER_FILE)[video - first]
    serfiq = _logistic(1.6 + 0.9 * own + generator.normal(0, 0.9, count))
    quality = np.clip(52 + 9 * own + 14 * (serfiq - 0.75) + generator.normal(0, 7, count), 0, 100)
    status = np.where(serfiq < 0.5, "below_fiq", "scored").astype(object)
    chance = generator.random(count)
    status[chance < 0.06] = "face_too_small"
    status[chance < 0.04] = "no_face"
    broken = (video % 100 == 99) & (index > 120)
    status[broken] = "unreadable"
    readable, face = ~broken, ~broken & (status != "no_face")
    known = face & (status != "face_too_small")
    scored = status == "scored"
    side = np.clip(generator.lognormal(4.9, 0.4, count), 40, 600)
    side[status == "face_too_small"] = 30
    left, top = generator.random(count) * (WIDTH - side), generator.random(count) * (HEIGHT - side)
    yaw, pitch, roll = (generator.normal(0, spread, count) for spread in (18, 9, 6))
    source = np.char.add(np.char.add("/data/videos/clip-", np.char.zfill(video.astype(str), 7)), ".mp4")
    values: dict[str, Any] = {
        "frame_id": generator.integers(-(2**63), 2**63 - 1, count),
        "source": source,
        "member": pa.nulls(count, pa.string()),
        "frame_index": index,
        "timestamp_s": index / FRAMES_PER_SECOND,
        "status": status,
        "error": pa.array(np.array(ERRORS, object)[index % 2], pa.string(), mask=~broken),
        **_where(readable, width=np.full(count, WIDTH), height=np.full(count, HEIGHT)),
        **_where(readable, n_faces=np.where(face, 1, 0)),
        **_where(face, face_x=left, face_y=top, face_w=side, face_h=side),
        **_where(face, det_score=generator.uniform(0.6, 0.95, count)),
        "landmarks": _landmarks(generator, left, top, side, face),
        **_where(face, yaw=yaw, pitch=pitch, roll=roll),
        **_where(known, serfiq_raw=0.6 + 0.3 * serfiq, serfiq=serfiq),
        **_where(known, embedding_norm=generator.normal(11, 1.5, count)),
        **_where(known, dhash=generator.integers(-(2**63), 2**63 - 1, count)),
        **_where(known, face_confidence=generator.beta(60, 1, count)),
        **_where(known, align_error=generator.lognormal(1, 0.4, count)),
        **_where(known, **{measure.name: generator.random(count) for measure in MEASURES}),
        **_where(scored, mask_coverage=side**2 * 0.7 / (WIDTH * HEIGHT), dbcnn=quality),
        "extra": pa.nulls(count, pa.string()),
        "shot": index // FRAMES_PER_SHOT,
        "run_id": np.full(count, run_id),
    }
    return pa.table({field.name: pa.array(values[field.name]).cast(field.type) for field in SCHEMA})


def _where(known: np.ndarray, **values: np.ndarray) -> dict[str, pa.Array]:
    """Columns that are null where `known` is false."""
    return {name: pa.array(column, mask=~known) for name, column in values.items()}


def _landmarks(
    generator: np.random.Generator, left: np.ndarray, top: np.ndarray, side: np.ndarray, known: np.ndarray
) -> pa.Array:
    """Landmarks in boxes, with a small deviation from their usual positions."""
    inside = _LANDMARKS + generator.normal(0, 0.02, (len(side), *_LANDMARKS.shape))
    points = np.stack([left, top], axis=1)[:, None] + side[:, None, None] * inside
    flat = pa.array(points.ravel().astype(np.float32))
    return pa.FixedSizeListArray.from_arrays(flat, points[0].size, mask=pa.array(~known))


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


if __name__ == "__main__":
    sys.exit(main())

"""The tracks of a table: which faces of a shot are the same person's.

A job cannot number them, because its batches are scored in any order, on any machine. So they are found when
they are asked for, from the boxes, hashes and embeddings in the table.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from faceq.faces.tracks import COSINE, track_numbers
from faceq.models.zoo import Impostors
from faceq.query.faces import BOX, FACE_POSITION, FACE_VIEW, TRACK
from faceq.query.sql import OF_VIDEO, same_video
from faceq.table.schema import EMBEDDING

_SHOWN = f"{FACE_VIEW} WHERE {OF_VIDEO} AND face_x IS NOT NULL"
"""SQL: the faces that have a place in a video."""

_FMR = 1e-3
"""False match rate at which two faces of a shot count as one person's. Few people are in a shot."""

_NUMBERS = pa.schema([("frame_id", pa.int64()), (FACE_POSITION, pa.int32()), (TRACK, pa.int32())])


WITHOUT_TRACK = f"SELECT {TRACK} FROM {_SHOWN} AND {TRACK} IS NULL LIMIT 1"
"""SQL: has a row if the table lacks the track of a face."""


def faces_to_follow(embeddings: bool) -> str:
    """SQL: what is needed of each face of a video, in order. embeddings: the table has some."""
    embedding = f", {EMBEDDING.name}" if embeddings else ""
    return f"""
    WITH shown AS (
        SELECT frame_id, {FACE_POSITION}, source, member, coalesce(shot, -1) AS shot, frame_index,
            timestamp_s, {", ".join(BOX)}, dhash{embedding}
        FROM {_SHOWN}
    ), videos AS (
        SELECT source, member, row_number() OVER (ORDER BY source, member) AS video
        FROM shown GROUP BY source, member
    )
    SELECT shown.* EXCLUDE (source, member), video
    FROM shown JOIN videos ON {same_video("shown", "videos")}
    ORDER BY video, frame_index, {FACE_POSITION}
    """


def follow(faces: Iterable[pa.Table], impostors: Impostors | None) -> pa.Table:
    """The tracks of faces: frame_id, face, track.

    The faces of one shot are in memory, and 16 bytes for each face of the table.

    Args:
        faces: the result of `faces_to_follow`, in parts.
        impostors: the cosines of different people for the recogniser; None if they are not known.
    """
    cosine = COSINE if impostors is None else impostors.cosine_at(_FMR)
    found = [_NUMBERS.empty_table()]
    video, first = None, 0
    for shot in map(_once, _shots(faces)):
        first = first if shot["video"][0].as_py() == video else 0
        video = shot["video"][0].as_py()
        numbers = first + _followed(shot, cosine)
        first = int(numbers.max()) + 1
        columns = [shot["frame_id"], shot[FACE_POSITION], pa.array(numbers, pa.int32())]
        found.append(pa.table(columns, schema=_NUMBERS))
    return pa.concat_tables(found)


def _once(shot: pa.Table) -> pa.Table:
    """Sorted faces without repetitions: a killed run may leave two rows of one frame."""
    frames, places = (shot[name].to_numpy() for name in ("frame_index", FACE_POSITION))
    return shot.filter(pa.array(np.append(True, (np.diff(frames) != 0) | (np.diff(places) != 0))))


def _followed(shot: pa.Table, cosine: float) -> np.ndarray:
    """The numbers of the tracks (N,) of the faces of a shot, from 0. cosine: see `track_numbers`."""
    boxes = np.stack([shot[name].to_numpy() for name in BOX], 1)
    known = shot["dhash"].combine_chunks()
    hashes = np.ma.masked_array(known.fill_null(0).to_numpy().view(np.uint64), known.is_null())
    frames, times = shot["frame_index"].to_numpy(), shot["timestamp_s"].to_numpy()
    return track_numbers(frames, times, boxes, hashes, _embeddings(shot), cosine=cosine)


def _embeddings(shot: pa.Table) -> np.ndarray | None:
    """The embeddings (N, D) of the faces of a shot, NaN where there is none; None if none has one."""
    if EMBEDDING.name not in shot.column_names:
        return None
    lists = shot[EMBEDDING.name].combine_chunks()
    sizes = lists.value_lengths().fill_null(0).to_numpy()
    size = int(sizes.max(initial=0))
    if not size:
        return None
    found = np.full((len(shot), size), np.nan, np.float32)
    whole = sizes == size  # those of another length are of another recogniser
    found[whole] = lists.filter(pa.array(whole)).flatten().to_numpy().reshape(-1, size)
    return found


def _shots(faces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The faces of each shot, sorted by frame; the shots of a video follow each other."""
    waiting: list[pa.Table] = []
    for part in faces:
        video, shot = (part[name].to_numpy() for name in ("video", "shot"))
        ends = np.flatnonzero((np.diff(video) != 0) | (np.diff(shot) != 0)) + 1
        for start, end in zip([0, *ends], [*ends, len(part)], strict=True):
            if waiting and any(waiting[-1][name][-1] != part[name][start] for name in ("video", "shot")):
                yield pa.concat_tables(waiting)
                waiting = []
            waiting.append(part[start:end])
    if waiting:
        yield pa.concat_tables(waiting)

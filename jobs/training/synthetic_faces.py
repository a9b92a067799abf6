"""Several faces per frame for the made-up tables of `jobs.training.synthetic`."""

import numpy as np
import pyarrow as pa

from faceq.table.schema import FACE, FACES_COLUMN

FRAMES_PER_SHOT = 125
PEOPLE = (0.5, 0.25, 0.15, 0.1)
"""Shares of the shots with one, two, three and four people."""

PRESENT = 0.9
"""Share of a shot's frames in which a person is found who is not the main face of the frame."""

SMALLER = (0.3, 0.9)
"""Side of another face, relative to that of the main face: smallest and largest."""


def with_faces(
    frames: pa.Table, video: np.ndarray, min_face: int, generator: np.random.Generator
) -> pa.Table:
    """Frames as they are with `faces: all` and `main: largest`.

    The main face is the first person of the shot in its first half, and the second person, if there is one,
    in its second half. Another face has the values of the main face of any frame, and a smaller box. It is
    not listed if its box is below `min_face`. A frame whose main face is too small has no other face.

    Args:
        frames: (N) rows of the result table with at most one face each, without the column `faces`.
        video: (N,) int, number of the video of each frame, from 0.
        min_face: as the setting, pixels.
        generator: draws the faces.

    Returns:
        The frames with `faces`, and with the number of all faces in `n_faces`. `track` is the number of a
        person within the video; a person of the next shot has another one.
    """
    status = frames["status"].to_numpy()
    index, shot = frames["frame_index"].to_numpy(), frames["shot"].to_numpy()
    of_shot = video * (shot.max() + 1) + shot
    people = 1 + generator.choice(len(PEOPLE), of_shot.max() + 1, p=PEOPLE)[of_shot]
    large = np.isin(status, ("scored", "below_fiq"))
    present = [large | (status == "face_too_small")]
    for other in range(1, len(PEOPLE)):
        present.append(large & (other < people) & (generator.random(len(frames)) < PRESENT))
    person, row = np.nonzero(np.stack(present))
    n_faces = np.bincount(row, minlength=len(frames))
    side = frames["face_w"].to_numpy()[row] * np.where(person, generator.uniform(*SMALLER, len(row)), 1)
    order = np.lexsort((-side, row))
    order = order[((person == 0) | (side >= min_face))[order]]
    person, row, side = person[order], row[order], side[order]
    first = index[row] % FRAMES_PER_SHOT * 2 // FRAMES_PER_SHOT
    track = shot[row] * len(PEOPLE) + (first + person) % people[row]
    alike = row.copy()
    alike[person > 0] = generator.choice(np.flatnonzero(large), np.count_nonzero(person))
    faces = _moved(frames.take(pa.array(alike)), person > 0, side, generator)
    faces = faces.append_column("track", pa.array(track, pa.int32()))
    missing = pa.nulls(len(faces))
    arrays = [
        (faces[field.name].combine_chunks() if field.name in faces.column_names else missing).cast(field.type)
        for field in FACE
    ]
    unreadable = status == "unreadable"
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(frames)))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(
        pa.array(offsets), pa.StructArray.from_arrays(arrays, fields=list(FACE)), mask=pa.array(unreadable)
    )
    count = pa.array(n_faces.astype(np.int32), mask=unreadable)
    frames = frames.set_column(frames.column_names.index("n_faces"), "n_faces", count)
    return frames.append_column(FACES_COLUMN.field, lists)


def _moved(faces: pa.Table, other: np.ndarray, side: np.ndarray, generator: np.random.Generator) -> pa.Table:
    """Faces (N) whose boxes, where `other` (N,) is true, have the given side and a new place."""
    before = np.stack([faces[name].to_numpy() for name in ("face_x", "face_y")], axis=1)
    room = np.stack([faces[name].to_numpy() for name in ("width", "height")], axis=1) - side[:, None]
    after = generator.random(before.shape) * room
    points = faces["landmarks"].combine_chunks().flatten().to_numpy().reshape(len(faces), 5, 2)
    factor = side / faces["face_w"].to_numpy()
    inside = after[:, None] + (points - before[:, None]) * factor[:, None, None]
    boxes = {"face_x": after[:, 0], "face_y": after[:, 1], "face_w": side, "face_h": side}
    for name, values in boxes.items():
        kept = np.where(other, values, faces[name].to_numpy()).astype(np.float32)
        faces = faces.set_column(faces.column_names.index(name), name, pa.array(kept))
    points = np.where(other[:, None, None], inside, points).astype(np.float32)
    starts = pa.array(np.arange(0, points.size + 1, 10, dtype=np.int32))
    landmarks = pa.ListArray.from_arrays(starts, pa.array(points.ravel()))
    return faces.set_column(faces.column_names.index("landmarks"), "landmarks", landmarks)

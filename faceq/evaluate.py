"""Judging quality scores by recognition errors: from a table and a list of who is who to EDC results."""

import contextlib
import csv
import io
import itertools
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.progress import track

from faceq import edc, geometry, models, recognise, serfiq
from faceq.config import PRESETS, S3
from faceq.decode import UnreadableError, decode
from faceq.errors import UsageError
from faceq.frames import Frame, read_again
from faceq.runs import Table
from faceq.storage import filesystem, path_of
from faceq.table import EMBEDDING

_COLUMNS = (
    *("frame_id", "source", "member", "landmarks", "face_w", "face_h"),
    *("serfiq_raw", "embedding_norm", "det_score"),
)
_BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """EDC results, and the faces, people and pairs that they stand on.

    without_face: names in the list that have no face with scores in the table.
    """

    results: list[edc.Result]
    faces: int
    people: int
    genuine: int
    impostors: int
    without_face: int


def evaluate_edc(table: Table, identities: str, s3: S3, seed: int = 0) -> Evaluation:
    """How well the table's quality scores foretell recognition errors.

    Embeddings are the table's, where it keeps them; else the frames are read again, aligned by the
    table's landmarks, and put through the preset's recogniser.

    Args:
        table: a result table.
        identities: CSV file with the columns image, identity; image: file name of a `source`, or `member`.
        s3: settings of the file system.
        seed: of the random score, the drawn pairs and the bootstrap.

    Raises:
        UsageError: a list that does not fit the table, or too few people or faces to say anything.
    """
    people_of = read_identities(identities, s3)
    rows = _rows_with(people_of, table)
    names = [people_of[name] for name in rows["image"].to_pylist()]
    people = np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)
    _, faces_each = np.unique(people, return_counts=True)
    if len(faces_each) < 2 or faces_each.max() < 2:
        raise UsageError(
            f"{identities}: {len(people)} of its images have a scored face in {table.uri}, of "
            f"{len(faces_each)} people: at least two people are needed, and two faces of one of them"
        )
    embeddings = _embeddings(rows, table, s3)
    genuine = edc.genuine_pairs(people, embeddings, seed=seed)
    impostors = edc.impostor_pairs(people, embeddings, seed=seed)
    return Evaluation(
        edc.evaluate(genuine, impostors, people, qualities(rows, seed), seed=seed),
        faces=len(people),
        people=len(faces_each),
        genuine=len(genuine.first),
        impostors=len(impostors.first),
        without_face=len(people_of) - len(set(rows["image"].to_pylist())),
    )


def qualities(rows: pa.Table, seed: int = 0) -> dict[str, np.ndarray]:
    """The scores that are compared, each (N,) float, higher is better; `random` is what no score can be."""
    columns = {name: rows[name].to_numpy() for name in ("serfiq_raw", "embedding_norm", "det_score")}
    size = np.minimum(rows["face_w"].to_numpy(), rows["face_h"].to_numpy())
    return {**columns, "face_size": size, "random": np.random.default_rng(seed).random(len(rows))}


def read_identities(path: str, s3: S3) -> dict[str, str]:
    """Who is on which image: the columns image and identity of a CSV file.

    Raises:
        UsageError: no such file, no such columns, a line without a value, an image with two identities.
    """
    files: fsspec.AbstractFileSystem = filesystem(path, s3)
    try:
        text = files.cat_file(path_of(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from None
    lines = csv.DictReader(io.StringIO(text, newline=""))
    there = lines.fieldnames or []
    for column in ("image", "identity"):
        if column not in there:
            raise UsageError(f"{path}: has no column {column!r}, only {', '.join(there) or 'nothing'}")
    people: dict[str, str] = {}
    for line in lines:
        image, identity = line["image"], line["identity"]
        if not image or not identity:
            raise UsageError(f"{path}: line {lines.line_num}: image or identity is empty")
        if people.setdefault(image, identity) != identity:
            raise UsageError(
                f"{path}: line {lines.line_num}: {image} is {identity} here and {people[image]} further up"
            )
    return people


def _rows_with(people_of: dict[str, str], table: Table) -> pa.Table:
    """The table's faces whose image is in the list, with the name that it has there as `image`."""
    kept = [EMBEDDING.name] if table.record().get("embeddings") else []
    rows = table.rows([*_COLUMNS, *kept])
    rows = rows.filter(pc.is_valid(rows["serfiq_raw"])).sort_by("frame_id")
    sources, members = rows["source"].to_pylist(), rows["member"].to_pylist()
    images = [
        posixpath.basename(source) if member is None else member
        for source, member in zip(sources, members, strict=True)
    ]
    rows = rows.append_column("image", pa.array(images, pa.string()))
    rows = rows.filter(pa.array([image in people_of for image in images], pa.bool_()))
    source_of: dict[str, str] = {}
    for image, source in zip(rows["image"].to_pylist(), rows["source"].to_pylist(), strict=True):
        if source_of.setdefault(image, source) != source:
            raise UsageError(
                f"{table.uri}: {image} may be of {source_of[image]} or of {source}: the list cannot tell"
            )
    return rows


def _embeddings(rows: pa.Table, table: Table, s3: S3) -> np.ndarray:
    """(N, E) float32, of length one, in the order of the rows."""
    if EMBEDDING.name in rows.column_names:
        return np.stack(rows[EMBEDDING.name].to_numpy())
    record = table.record()
    recogniser = PRESETS[record["preset"]].recogniser
    if record["models"][recogniser]["sha256"] != models.get(recogniser).sha256:
        raise UsageError(f"{table.uri}: was scored with another {recogniser} than this version of faceq has")
    ids, landmarks = rows["frame_id"].to_pylist(), rows["landmarks"].to_pylist()
    points = [np.array(five, np.float32).reshape(5, 2) for five in landmarks]
    landmarks_of = dict(zip(ids, points, strict=True))
    frames = read_again(dict.fromkeys(rows["source"].to_pylist()), landmarks_of, s3)
    watched = track(frames, "embeddings", total=len(ids), transient=True)
    found = dict(_recognised(_aligned(watched, landmarks_of, record["max_pixels"]), recogniser))
    lost = next((row for row in rows.to_pylist() if row["frame_id"] not in found), None)
    if lost is not None:
        raise UsageError(f"{lost['source']}: {lost['image']} cannot be read any more")
    return np.stack([found[frame_id] for frame_id in ids])


def _aligned(
    frames: Iterable[Frame], landmarks_of: dict[int, np.ndarray], max_pixels: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Id and aligned face (112, 112, 3) uint8 RGB of each frame that can still be read."""
    for frame in frames:
        if frame.image is not None:
            with contextlib.suppress(UnreadableError):
                picture = decode(frame.image, max_pixels)
                yield frame.id, geometry.align(picture, landmarks_of[frame.id])


def _recognised(faces: Iterator[tuple[int, np.ndarray]], recogniser: str) -> Iterator[tuple[int, np.ndarray]]:
    """Id and embedding (E,) float32, of length one, of each face."""
    backbone = recognise.from_zoo(recogniser, threads=len(os.sched_getaffinity(0)))
    closed_form = serfiq.ClosedForm(backbone.head)
    while batch := list(itertools.islice(faces, _BATCH)):
        ids, aligned = zip(*batch, strict=True)
        _, embeddings = closed_form(torch.from_numpy(backbone(np.stack(aligned))))
        yield from zip(ids, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), strict=True)

"""Judging quality scores by recognition errors: from a table and a list of who is who to EDC results."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import track

from faceq.errors import UsageError
from faceq.evaluation import edc, labels
from faceq.faces import geometry
from faceq.fiq import recogniser, serfiq
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.presets import PRESETS
from faceq.query.rows import Rows
from faceq.runtime import device
from faceq.sources import read_again
from faceq.sources.decode.image import UnreadableError, decode
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING
from faceq.table.store import Table

_COLUMNS = (
    *("frame_id", "source", "member", "frame_index", "landmarks", "face_w", "face_h"),
    *("serfiq_raw", "embedding_norm", "det_score", "yaw", "pitch", "roll"),
)
_IMAGE = "coalesce(member, regexp_extract(source, '[^/]*$'))"
"""SQL: what a list of identities calls a frame."""

_BATCH = 16


@dataclass(frozen=True)
class Known:
    """Faces of a table whose people are known.

    rows: the faces, with `image`, their name in the list. people: (N,) int64, 0...M-1. names: of those M.
    without_face: names in the list that have no face with scores in the table.
    """

    rows: pa.Table
    people: np.ndarray
    names: list[str]
    without_face: int


@dataclass(frozen=True)
class Evaluation:
    """EDC results, and the faces and the numbers of pairs that they stand on."""

    results: list[edc.Result]
    known: Known
    genuine: int
    impostors: int


def evaluate_edc(
    table: Table, identities: str, s3: S3Settings, options: FetchOptions, seed: int = 0
) -> Evaluation:
    """How well the table's quality scores foretell recognition errors.

    Embeddings are the table's, where it keeps them; else the frames are read again, aligned by the
    table's landmarks, and put through the preset's recogniser.

    Args:
        table: a result table.
        identities: CSV file with the columns image, identity; image: file name of a `source`, or `member`.
        s3: how to reach S3.
        options: how models are fetched.
        seed: of the random score, the drawn pairs and the bootstrap.

    Raises:
        UsageError: a list that does not fit the table, or too few people or faces to say anything.
    """
    known = known_faces(table, identities, s3)
    if EMBEDDING.name in known.rows.column_names:
        embeddings = np.stack(known.rows[EMBEDDING.name].to_numpy())
    else:
        faces = aligned_faces(known.rows, table, s3)
        tracked = track(faces, "embeddings", len(known.rows), console=Console(stderr=True), transient=True)
        embeddings = embeddings_of(tracked, table, options)
    genuine = edc.genuine_pairs(known.people, embeddings, seed=seed)
    impostors = edc.impostor_pairs(known.people, embeddings, seed=seed)
    scores = qualities(known.rows, seed)
    results = edc.evaluate(genuine, impostors, known.people, scores, seed=seed)
    return Evaluation(results, known, len(genuine.first), len(impostors.first))


def qualities(rows: pa.Table, seed: int = 0) -> dict[str, np.ndarray]:
    """The scores that are compared, each (N,) float, higher is better; `random` is what no score can be."""
    columns = {name: rows[name].to_numpy() for name in ("serfiq_raw", "embedding_norm", "det_score")}
    size = np.minimum(rows["face_w"].to_numpy(), rows["face_h"].to_numpy())
    return {**columns, "face_size": size, "random": np.random.default_rng(seed).random(len(rows))}


def read_identities(path: str, s3: S3Settings) -> dict[str, str]:
    """Who is on which image: the columns image and identity of a CSV file.

    Raises:
        UsageError: as `faceq.evaluation.labels.read` does, or an image has two identities.
    """
    people: dict[str, str] = {}
    for where, image, identity in labels.read(path, "identity", s3):
        if people.setdefault(image, identity) != identity:
            raise UsageError(f"{where}: {image} is {identity} here and {people[image]} further up")
    return people


def known_faces(table: Table, identities: str, s3: S3Settings) -> Known:
    """The table's faces that a list of identities names, ordered by source and member.

    Raises:
        UsageError: as `evaluate_edc` does.
    """
    people_of = read_identities(identities, s3)
    rows = _rows_of(table, people_of, s3)
    images = rows["image"].to_pylist()
    _check_sources(images, rows["source"].to_pylist(), table)
    names, people = np.unique([people_of[image] for image in images], return_inverse=True)
    if len(names) < 2 or np.bincount(people).max() < 2:
        raise UsageError(
            f"{identities}: {len(rows)} of its images have a scored face in {table.uri}, of {len(names)} "
            "people: at least two people are needed, and two faces of one of them"
        )
    return Known(rows, people.astype(np.int64), names.tolist(), len(people_of) - len(set(images)))


def _rows_of(table: Table, people_of: Mapping[str, str], s3: S3Settings) -> pa.Table:
    """The rows with scores of some images, with `image`, what a list of identities calls them: all frames of
    a video have the video's name. The table is streamed: only these rows are in memory."""
    names = pa.table({"image": pa.array(list(people_of), pa.string())})
    with Rows(table.uri, s3) as rows:
        kept = [name for name in (EMBEDDING.name,) if name in rows.columns]
        faces = rows.chosen("serfiq_raw IS NOT NULL", [*_COLUMNS, *kept])
        named = rows.over(faces, f"SELECT *, {_IMAGE} AS image FROM {{rows}}")
        found = rows.arrow(rows.semi_join(named, "image", names))
    order = [(name, "ascending") for name in ("source", "member", "frame_index")]
    return found.sort_by(order)


def _check_sources(images: list[str], sources: list[str], table: Table) -> None:
    source_of: dict[str, str] = {}
    for image, source in zip(images, sources, strict=True):
        if source_of.setdefault(image, source) != source:
            raise UsageError(
                f"{table.uri}: {image} may be of {source_of[image]} or of {source}: the list cannot tell"
            )


def aligned_faces(rows: pa.Table, table: Table, s3: S3Settings) -> Iterator[np.ndarray]:
    """The aligned face (112, 112, 3) uint8 RGB of each row, in order, from its source and landmarks.

    Raises:
        UsageError: a frame that cannot be read any more.
    """
    columns = ("frame_id", "source", "image", "landmarks")
    wanted = {row["frame_id"]: row for row in rows.select(columns).to_pylist()}
    max_pixels = table.record()["max_pixels"]
    faces = {}
    order = iter(wanted)
    waiting = next(order, None)
    # Members may lie in a shard in another order; a face that comes early waits, 38 KB each.
    for frame in read_again(dict.fromkeys(rows["source"].to_pylist()), wanted, s3):
        if frame.image is not None:
            with contextlib.suppress(UnreadableError):
                landmarks = np.array(wanted[frame.id]["landmarks"], np.float32).reshape(5, 2)
                faces[frame.id] = geometry.align(decode(frame.image, max_pixels), landmarks)
        while waiting in faces:
            yield faces.pop(waiting)
            waiting = next(order, None)
    if waiting is not None:
        lost = wanted[waiting]
        raise UsageError(f"{lost['source']}: {lost['image']} cannot be read any more")


def embeddings_of(faces: Iterable[np.ndarray], table: Table, options: FetchOptions) -> np.ndarray:
    """Recognition embeddings of aligned faces, by the recogniser that scored the table.

    Args:
        faces: (112, 112, 3) uint8 RGB each.
        table: which recogniser that was.
        options: how models are fetched.

    Returns:
        (N, E) float32, of length one.

    Raises:
        UsageError: the zoo has another version of that recogniser now, or does not know the preset.
    """
    record = table.record()
    if record["preset"] not in PRESETS:
        raise UsageError(f"{table.uri}: this version of faceq does not know its preset {record['preset']!r}")
    own = record["config"].get("models") or {}
    name = own.get("recogniser") or PRESETS[record["preset"]].recogniser
    model = zoo.find(name)
    if record["models"].get(model.name, {}).get("sha256") != model.sha256:
        raise UsageError(f"{table.uri}: was scored with another {name} than there is now")
    known = zoo.recogniser(name)
    rate = record.get("dropout") or known.dropout
    threads = device.usable_cpus()
    backbone = recogniser.Backbone(fetch(name, options), rate, known.mean, known.std, threads=threads)
    closed_form = serfiq.ClosedForm(backbone.head)
    found = []
    rest = iter(faces)
    while batch := list(itertools.islice(rest, _BATCH)):
        _, embeddings = closed_form(torch.from_numpy(backbone(np.stack(batch))))
        found.append(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    return np.concatenate(found)

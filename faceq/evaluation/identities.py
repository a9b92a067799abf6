"""Evaluate quality scores by recognition errors: EDC results from a table and a list of identities."""

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from faceq.errors import UsageError
from faceq.evaluation import edc, labels
from faceq.faces import geometry
from faceq.fiq import recogniser, serfiq
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.presets import PRESETS
from faceq.query.extra_values import extra_value
from faceq.query.rows import Rows
from faceq.runtime import device
from faceq.runtime.parallel import in_threads
from faceq.runtime.threads import limit_threads
from faceq.sources import read_again
from faceq.sources.decode.image import UnreadableError, decode
from faceq.sources.frame import Frame
from faceq.sources.reread import last_frames
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING
from faceq.table.store import Table

log = logging.getLogger(__name__)

_COLUMNS = (
    *("frame_id", "source", "member", "frame_index", "landmarks", "face_w", "face_h"),
    *("serfiq_raw", "embedding_norm", "det_score", "yaw", "pitch", "roll"),
)
_OF_FACES = ("face_id", "face", "main", "timestamp_s")
"""Further columns, if the identities are those of faces."""

_IMAGE = "coalesce(member, regexp_extract(source, '[^/]*$'))"
"""SQL expression for a frame's name in a list of identities."""

_BATCH = 16


@dataclass(frozen=True)
class Known:
    """The faces of a table whose identities are known.

    rows: the faces, with the column `image`, their name in the list; and with `face`, the position among the
    faces of the frame, if the list names faces. people: (N,) int64, 0...M-1, the person of each face. names:
    the names of the M people. without_face: number of images, or of faces, in the list without a scored face
    in the table.
    """

    rows: pa.Table
    people: np.ndarray
    names: list[str]
    without_face: int


@dataclass(frozen=True)
class Evaluation:
    """EDC results, and the faces and numbers of pairs that they are based on."""

    results: list[edc.Result]
    known: Known
    genuine: int
    impostors: int


def evaluate_edc(
    table: Table, known: Known, s3: S3Settings, options: FetchOptions, seed: int = 0
) -> Evaluation:
    """Evaluate how well the table's quality scores predict recognition errors.

    The embeddings in the table are used if it has them. Otherwise the frames are read again, aligned by the
    table's landmarks, and embedded by the preset's recogniser.

    Args:
        table: a result table.
        known: its faces whose identities are known.
        s3: settings of the file system.
        options: how models are fetched.
        seed: seed of the random score, the sampled pairs and the bootstrap.

    Raises:
        UsageError: there are too few people or faces, or a frame can no longer be read.
    """
    embeddings = known_embeddings(table, known, s3, options)
    genuine = edc.genuine_pairs(known.people, embeddings, seed=seed)
    impostors = edc.impostor_pairs(known.people, embeddings, seed=seed)
    scores = qualities(known.rows, seed)
    results = edc.evaluate(genuine, impostors, known.people, scores, seed=seed)
    return Evaluation(results, known, len(genuine.first), len(impostors.first))


def known_embeddings(table: Table, known: Known, s3: S3Settings, options: FetchOptions) -> np.ndarray:
    """The embeddings of known faces, (N, E) float32, L2 norm 1: those in the table, or computed from its
    frames if not all faces have one. Arguments and errors: see `evaluate_edc`."""
    if EMBEDDING.name in known.rows.column_names and not known.rows[EMBEDDING.name].null_count:
        return np.stack(known.rows[EMBEDDING.name].to_numpy())
    faces = aligned_faces(known.rows, table, s3)
    tracked = track(faces, "embeddings", len(known.rows), console=Console(stderr=True), transient=True)
    return embeddings_of(tracked, table, options)


def qualities(rows: pa.Table, seed: int = 0) -> dict[str, np.ndarray]:
    """The scores to compare, each (N,) float, higher is better. `random` is the baseline. Faces of
    `faces: aligned` have no `det_score`."""
    names = ["serfiq_raw", "embedding_norm", *(["det_score"] if not rows["det_score"].null_count else [])]
    columns = {name: rows[name].to_numpy() for name in names}
    size = np.minimum(rows["face_w"].to_numpy(), rows["face_h"].to_numpy())
    return {**columns, "face_size": size, "random": np.random.default_rng(seed).random(len(rows))}


def read_identities(path: str, s3: S3Settings) -> dict[str, str]:
    """The identity of each image, from the columns image and identity of a CSV file.

    Raises:
        UsageError: as in `faceq.evaluation.labels.read`, or an image has two identities.
    """
    people: dict[str, str] = {}
    lines = labels.read_lines(path, "identity", (), s3)
    if lines and "face" in lines[0][1]:
        log.warning("%s: its column face is used only with --faces: the main face of each image counts", path)
    for where, line in lines:
        image, identity = line["image"], line["identity"]
        if people.setdefault(image, identity) != identity:
            raise UsageError(
                f"{where}: {image} is {identity} here, but {people[image]} in an earlier line: for several "
                "people in an image, add a column face, and --faces"
            )
    return people


def read_face_identities(path: str, s3: S3Settings) -> dict[tuple[str, int | None], str]:
    """The identity of each face, from the columns image, face and identity of a CSV file. face: the position
    in `faces` of the frame; None, if it is empty: the main face.

    Raises:
        UsageError: as in `faceq.evaluation.labels.read`, a face is not a position, or has two identities.
    """
    people: dict[tuple[str, int | None], str] = {}
    for where, line in labels.read_lines(path, "identity", ("face",), s3):
        image, identity, given = line["image"], line["identity"], (line["face"] or "").strip()
        if not re.fullmatch("[0-9]{0,9}", given):
            raise UsageError(
                f"{where}: face is {given!r}: write its position in `faces`, from 0, or nothing for the main "
                "face"
            )
        face = int(given) if given else None
        if people.setdefault((image, face), identity) != identity:
            named = "the main face" if face is None else f"face {face}"
            earlier = people[image, face]
            raise UsageError(
                f"{where}: {named} of {image} is {identity} here, but {earlier} in an earlier line"
            )
    return people


def known_faces(table: Table, identities: str, s3: S3Settings, *, faces: bool = False) -> Known:
    """The table's faces whose images are in a list of identities, ordered by source and member.

    Args:
        table: a result table.
        identities: CSV file with the columns image and identity; image is the file name of a `source`, or a
            `member`.
        s3: settings of the file system.
        faces: the list names faces: see `read_face_identities`. Otherwise the main face of each frame counts.

    Raises:
        UsageError: the list does not fit the table, or too few of its people have faces.
    """
    if faces:
        people_of = read_face_identities(identities, s3)
    else:
        people_of = {(image, None): identity for image, identity in read_identities(identities, s3).items()}
    rows = _rows_of(table, people_of, s3, faces)
    _check_sources(rows["image"].to_pylist(), rows["source"].to_pylist(), table)
    found = len(rows.group_by(["image", "listed"]).aggregate([]))
    if faces:
        rows = _checked_faces(rows, identities)
    identity_of = rows["identity"].to_pylist()
    rows = rows.drop_columns(["listed", "identity"])
    return _known(rows, identity_of, len(people_of) - found, identities, table)


def people_in_extra(table: Table, name: str, s3: S3Settings) -> Known:
    """The table's faces whose `extra` names a person, ordered by source and member.

    Args:
        table: a result table.
        name: of the value, such as `extra.json.identity`.
        s3: settings of the file system.

    Raises:
        UsageError: the name is not valid, or too few people have faces.
    """
    value = extra_value(name)
    with Rows(table.uri, s3) as rows:
        faces = rows.chosen(f"serfiq_raw IS NOT NULL AND ({value}) IS NOT NULL")
        columns = ", ".join((*_COLUMNS, *_embedding(rows), f"{_IMAGE} AS image", f"{value} AS identity"))
        found = _sorted(rows.arrow(rows.over(faces, f"SELECT {columns} FROM {{rows}}")))
    return _known(found.drop_columns(["identity"]), found["identity"].to_pylist(), 0, name, table)


def _known(rows: pa.Table, identity_of: list[str], without_face: int, of: str, table: Table) -> Known:
    """The rows as known faces, if there are enough people. of: where the identities come from."""
    names, people = np.unique(identity_of, return_inverse=True)
    if len(names) < 2 or np.bincount(people).max() < 2:
        raise UsageError(
            f"{of}: names the person of {len(rows)} scored faces in {table.uri}, of {len(names)} people: "
            "at least two people are needed, one of them with two faces"
        )
    return Known(rows, people.astype(np.int64), names.tolist(), without_face)


def _rows_of(
    table: Table, people_of: Mapping[tuple[str, int | None], str], s3: S3Settings, faces: bool
) -> pa.Table:
    """The scored rows of the faces in a list of identities, with `image`, `listed` and `identity`: their
    name, their position (null: the main face) and their person in the list.

    All frames of a video have the video's name. The table is streamed: only these rows are in memory.
    """
    names, positions = zip(*people_of, strict=True) if people_of else ((), ())
    listed = pa.table(
        {
            "image": pa.array(names, pa.string()),
            "listed": pa.array(positions, pa.int64()),
            "identity": pa.array(people_of.values(), pa.string()),
        }
    )
    with Rows(table.uri, s3, faces=faces) as rows:
        columns = [*_COLUMNS, *(_OF_FACES if faces else ()), *_embedding(rows)]
        scored = rows.chosen("serfiq_raw IS NOT NULL", columns)
        named = rows.over(scored, f"SELECT *, {_IMAGE} AS image FROM {{rows}}")
        join = f"FROM {{rows}} JOIN {rows.name_of(listed)} AS list USING (image)"
        which = "WHERE listed = face OR (listed IS NULL AND main)" if faces else ""
        return _sorted(rows.arrow(rows.over(named, f"{join} {which}")))


def _checked_faces(rows: pa.Table, identities: str) -> pa.Table:
    """The rows without repetitions. UsageError if a main face has another identity by its position, or if a
    position is one of a video."""
    columns = ("image", "face", "face_id", "listed", "identity", "timestamp_s")
    seen: dict[int, str] = {}
    kept = []
    for number, row in enumerate(rows.select(columns).to_pylist()):
        if row["listed"] is not None and row["timestamp_s"] is not None:
            raise UsageError(
                f"{identities}: {row['image']} is a video: a position in `faces` means another person in "
                "another frame; leave face empty for the main face of each frame"
            )
        if row["face_id"] not in seen:
            kept.append(number)
        earlier = seen.setdefault(row["face_id"], row["identity"])
        if earlier != row["identity"]:
            raise UsageError(
                f"{identities}: the main face of {row['image']} is face {row['face']}: one line says that it "
                f"is {earlier}, another that it is {row['identity']}"
            )
    return rows.take(kept)


def _embedding(rows: Rows) -> list[str]:
    return [EMBEDDING.name] if EMBEDDING.name in rows.columns else []


def _sorted(rows: pa.Table) -> pa.Table:
    order = ("source", "member", "frame_index", *(["face"] if "face" in rows.column_names else []))
    return rows.sort_by([(name, "ascending") for name in order])


def _check_sources(images: list[str], sources: list[str], table: Table) -> None:
    source_of: dict[str, str] = {}
    for image, source in zip(images, sources, strict=True):
        if source_of.setdefault(image, source) != source:
            raise UsageError(
                f"{table.uri}: {image} is ambiguous: it is in {source_of[image]} and in {source}"
            )


def aligned_faces(rows: pa.Table, table: Table, s3: S3Settings) -> Iterator[np.ndarray]:
    """Yield the aligned face (112, 112, 3) uint8 RGB of each row, in order, from its source and landmarks.

    Raises:
        UsageError: a frame can no longer be read.
    """
    landmarks = rows["landmarks"].to_pylist()
    places: dict[int, list[int]] = {}  # of the rows of each frame: several if it has several faces
    for place, number in enumerate(rows["frame_id"].to_pylist()):
        places.setdefault(number, []).append(place)
    max_pixels = table.record()["max_pixels"]
    faces: dict[int, np.ndarray] = {}
    waiting = 0

    def aligned(frame: Frame) -> dict[int, np.ndarray]:
        if frame.image is None:
            return {}
        try:
            image = decode(frame.image, max_pixels)
        except UnreadableError:
            return {}
        of_frame = {place: np.array(landmarks[place], np.float32) for place in places[frame.id]}
        return {place: geometry.align(image, flat.reshape(5, 2)) for place, flat in of_frame.items()}

    animated = table.record().get("animated") == "frames"
    frames = read_again(last_frames(rows), places, s3, animated=animated)
    # A shard may contain its members in another order. Faces that are read too early are kept, 38 KB each.
    for found in in_threads(aligned, frames, device.usable_cpus()):
        faces.update(found)
        while waiting in faces:
            yield faces.pop(waiting)
            waiting += 1
    if waiting < len(rows):
        lost = rows.select(["source", "image"]).slice(waiting, 1).to_pylist()[0]
        raise UsageError(f"{lost['source']}: {lost['image']} can no longer be read")


def embeddings_of(faces: Iterable[np.ndarray], table: Table, options: FetchOptions) -> np.ndarray:
    """The embeddings of aligned faces, from the recogniser that scored the table.

    Args:
        faces: (112, 112, 3) uint8 RGB each.
        table: the table, whose record names the recogniser.
        options: how models are fetched.

    Returns:
        (N, E) float32, L2 norm 1.

    Raises:
        UsageError: the model zoo now has another version of the recogniser, or the preset is unknown.
    """
    record = table.record()
    if record["preset"] not in PRESETS:
        raise UsageError(f"{table.uri}: this version of faceq does not know its preset {record['preset']!r}")
    own = record["config"].get("models") or {}
    name = own.get("recogniser") or PRESETS[record["preset"]].recogniser
    model = zoo.find(name)
    if record["models"].get(model.name, {}).get("sha256") != model.sha256:
        raise UsageError(f"{table.uri}: was scored with another version of {name} than the current one")
    known = zoo.recogniser(name)
    rate = record.get("dropout") or known.dropout
    backbone = recogniser.Backbone(fetch(name, options), rate, known.mean, known.std, threads=1)
    closed_form = serfiq.ClosedForm(backbone.head)

    def embedded(batch: np.ndarray) -> np.ndarray:
        _, embeddings = closed_form(backbone(batch))
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    with limit_threads(1):
        return np.concatenate(list(in_threads(embedded, _batches(faces), device.usable_cpus())))


def _batches(faces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rest = iter(faces)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield np.stack(batch)

"""Export selected frames of a table as WebDataset tars: the original bytes of each image, or a crop of its
face, with its row and its sidecars.

A sample consists of `<id>.<extension>`, `<id>.faceq.json` and sidecars: the id of the frame in 16 hex digits,
the extension for the type of the image, the row of the frame, and the files that had the same key in the
frame's tar. Rows of faces have a sample for each face: a crop, named by the id of the face. Frames of videos
have no bytes of their own and are written as lossless PNGs. `README.md` is the dataset card of the export. It
contains the type of every column; without it, the Hugging Face library `datasets` would guess the types from
the first five samples, where a column may be null.

The files in the folder show which frames are exported. A tar appears atomically, after a list of the ids in
it (`_faceq/<tar>.ids`). A frame is finished if it is on the list of an existing tar. An interrupted export
therefore resumes where it stopped, and an export of a table that has grown adds the new frames.
"""

import contextlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.errors import UsageError
from faceq.query.dataset_card import OTHER, ROW
from faceq.query.drawn_picture import CROP_COLUMNS, draw
from faceq.query.export import discard
from faceq.query.export_folder import ENDINGS, MOST_EXTENSIONS, ExportFolder
from faceq.query.export_pictures import ORIGINALS, ExportPictures
from faceq.query.rows import Rows
from faceq.query.sql import quoted
from faceq.runtime.device import usable_cpus
from faceq.runtime.parallel import in_threads
from faceq.sources.decode.image import format_of
from faceq.sources.extra import json_value
from faceq.sources.frame import Frame, Sidecars
from faceq.sources.reread import frames_of
from faceq.storage.filesystem import storage_errors
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK, isin_sorted

SHARD_FRAMES = 1000
SHARD_BYTES = 512 << 20
"""A tar is closed when it reaches either of these."""

_ROWS_AT_ONCE = 10_000
_EXAMPLES = 5
"""Maximum number of rows that are written before the others."""

_LAYOUT = 2
"""Number of the names in the tars. Before 2, the row was `<id>.json`, and there were no sidecars."""


@dataclass
class Exported:
    """The result of an export: the number of frames or faces written, of those already exported, and of those
    that can no longer be read or cropped, with the reason for the first of them; of sidecars that are too
    large or too many for a sample; of rows that were left out because they have no face to crop."""

    written: int = 0
    already: int = 0
    lost: int = 0
    reason: str = ""
    lost_sidecars: int = 0
    faceless: int = 0

    def lose(self, frame: Frame) -> None:
        """Count a frame that can no longer be read."""
        self.lost += 1
        where = frame.source if frame.member is None else f"{frame.source}: {frame.member}"
        self.reason = self.reason or f"{where}: {frame.error}"


@dataclass(frozen=True)
class Selection:
    """A selection of rows: an SQL condition, an SQL order for the limit, and a limit. choice: a text that
    identifies the rows if they are given."""

    where: str | None = None
    order_by: str | None = None
    limit: int | None = None
    choice: str | None = None


def export_shards(
    rows: Rows,
    selection: Selection,
    folder: str,
    s3: S3Settings,
    progress: Callable[[int], None] = lambda done: None,
    pictures: ExportPictures = ORIGINALS,
    given: Any = None,
) -> Exported:
    """Write the selected frames into `frames-000000.tar`, … in a folder or under a URI.

    Sources are read as streams, each once, except for the few frames that are written first. The rows of a
    few thousand frames or of one large source are in memory, and the content of one sample. Images that are
    cropped or encoded again are drawn on all CPUs: then the content of two samples for each CPU is in memory.

    Args:
        rows: the table.
        selection: the rows to export. Rows for damaged sources (`frame_index` -1) are not frames.
        folder: a new or empty folder, or one with the same export, which is completed.
        s3: settings of the file system, also for the sources.
        progress: called with the number of further frames that are finished.
        pictures: what is written as images. If it is a crop of the face, rows without one are left out.
        given: the rows, the result of `rows.sql`, instead of those that the selection finds. They are frames
            or faces, and may have more columns than the table.

    Raises:
        UsageError: the folder contains other files or another export, or another process exports into it; or
            faces have no landmarks, which the aligned crop needs; or the rows are of faces, and the images
            are not crops.
        StorageError: the folder cannot be written to.
    """
    if rows.of_faces:
        pictures.check_faces()
    chosen = _chosen(rows, selection) if given is None else given
    columns = rows.arrow(chosen.limit(0)).schema
    if pictures.kind != "frame":
        columns = pa.schema([*columns, *CROP_COLUMNS])
    place = ExportFolder(folder, s3, columns, pictures.about)
    wanted = {"layout": _LAYOUT, "table": rows.table.uri, "faces": rows.of_faces}
    wanted |= vars(selection) | vars(pictures)
    if selection.limit is not None:
        # If the table has grown, the limit selects other rows: then it is another export.
        wanted["rows"] = rows.count(rows.chosen())
    with place.translate_errors():
        place.check(wanted)
    with place.exclusive():
        return _export(rows, chosen, pictures, place, wanted, progress)


def _export(
    rows: Rows,
    chosen: Any,
    pictures: ExportPictures,
    place: ExportFolder,
    wanted: dict[str, Any],
    progress: Callable[[int], None],
) -> Exported:
    ordered, found = _ordered(rows, chosen, pictures), Exported()
    if pictures.kind != "frame":
        found.faceless = rows.count(chosen) - rows.count(ordered)
    with place.translate_errors():
        place.claim(wanted)
        done = place.ids()
    with place.translate_errors(), contextlib.closing(_Writer(place)) as writer:

        def write(new: pa.Table) -> None:
            for frame, row in _drawn(new, pictures, place.s3):
                if frame.image is None:
                    found.lose(frame)
                else:
                    writer.add(row[rows.key], frame, row)
                    found.written += 1
                    found.lost_sidecars += frame.sidecars.lost
                progress(1)

        # A resumed export already has these rows in its first tar.
        first = _examples(rows, ordered, 0 if len(done) else _EXAMPLES)
        write(first)
        examples = np.sort(first[rows.key].to_numpy())
        for chunk in _by_sources(rows.batches(ordered, _ROWS_AT_ONCE)):
            ids = chunk[rows.key].to_numpy()
            already = int(np.count_nonzero(isin_sorted(ids, done)))
            found.already += already
            progress(already)
            write(chunk.filter(pa.array(~(isin_sorted(ids, done) | isin_sorted(ids, examples)))))
        writer.finish()
    return found


def _examples(rows: Rows, chosen: Any, most: int) -> pa.Table:
    """The rows to write first: at most `most` rows which together have a value in every column that is not
    null in all rows.

    Some loaders infer types from the first samples (the Hugging Face library `datasets` from five). These
    rows show them every type.
    """
    columns = rows.arrow(rows.over(chosen, "SELECT * FROM {rows} LIMIT 0"))
    counts = ", ".join(f"count({quoted(name)})" for name in columns.column_names)
    (values,) = rows.arrow(rows.over(chosen, f"SELECT {counts} FROM {{rows}}")).to_pylist()
    wanted = {name for name, count in zip(columns.column_names, values.values(), strict=True) if count}
    found: list[pa.Table] = []
    while wanted and len(found) < most:
        present = " + ".join(f"({quoted(name)} IS NOT NULL)::INTEGER" for name in sorted(wanted))
        best = f"SELECT * FROM {{rows}} ORDER BY {present} DESC, {rows.order} LIMIT 1"
        found.append(rows.arrow(rows.over(chosen, best)))
        wanted -= {name for name in wanted if found[-1][name][0].is_valid}
    return pa.concat_tables(found) if found else columns


def _drawn(new: pa.Table, pictures: ExportPictures, s3: S3Settings) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """The frames of rows with the images that are written, and their rows, in the order in which they are
    read."""
    read = frames_of(new, s3, keep_sidecars=True, as_files=pictures.keeps_bytes)
    with_rows = ((frame, new.slice(row, 1).to_pylist()[0]) for row, frame in read)
    if pictures.keeps_bytes:
        yield from with_rows
        return

    def drawn(given: tuple[Frame, list[dict[str, Any]]]) -> list[tuple[Frame, dict[str, Any]]]:
        frame, columns = given
        images = draw(frame, columns, pictures)
        return [(image, row | more) for (image, more), row in zip(images, columns, strict=True)]

    for images in in_threads(drawn, _by_frame(with_rows), usable_cpus()):
        yield from images


def _by_frame(
    rows: Iterable[tuple[Frame, dict[str, Any]]],
) -> Iterator[tuple[Frame, list[dict[str, Any]]]]:
    """The frames of rows, each with its rows, which follow each other."""
    for _, group in itertools.groupby(rows, key=lambda each: each[0].id):
        (frame, first), *others = group
        yield frame, [first, *(row for _, row in others)]


def count(rows: Rows, selection: Selection, pictures: ExportPictures = ORIGINALS) -> int:
    """The number of frames in a selection, without those that have no face if it is cropped."""
    return rows.count(_ordered(rows, _chosen(rows, selection), pictures))


def _ordered(rows: Rows, chosen: Any, pictures: ExportPictures) -> Any:
    """The rows that are written, ordered by source. Raises UsageError if faces have no landmarks, which the
    aligned crop needs."""
    if pictures.kind != "frame":
        chosen = rows.over(chosen, "FROM {rows} WHERE face_w IS NOT NULL")
    if pictures.kind == "aligned":
        _check_landmarks(rows, chosen)
    return chosen.order(rows.order)


def _check_landmarks(rows: Rows, chosen: Any) -> None:
    if without := rows.count(rows.over(chosen, "FROM {rows} WHERE landmarks IS NULL")):
        raise UsageError(
            f"{rows.table.uri}: {without:,} of the chosen faces have no `landmarks`, which --crop aligned "
            "needs: add `landmarks is not null` to the condition, or use --crop face"
        )


def _chosen(rows: Rows, selection: Selection) -> Any:
    """The selected rows. A limit always selects the same rows."""
    is_frame = f"frame_index <> {BREAK}"
    rows.chosen(selection.where)  # rejects text that is not a complete condition, such as `true) or (true`
    where = f"({selection.where}\n) and {is_frame}" if selection.where else is_frame
    chosen = rows.chosen(where)
    if selection.limit is not None:
        first = f"{selection.order_by}, {rows.order}" if selection.order_by else rows.order
        chosen = rows.chosen(where, order_by=first, limit=selection.limit)
    return chosen


def _by_sources(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Regroup ordered rows into tables of a few thousand rows that contain whole sources."""
    waiting: list[pa.Table] = []
    for part in batches:
        if waiting and waiting[-1]["source"][-1] != part["source"][0]:
            yield pa.concat_tables(waiting)
            waiting = []
        # The last source of a part may continue in the next part.
        start = pc.index(part["source"], part["source"][-1]).as_py()
        if start:
            yield pa.concat_tables([*waiting, part[:start]])
            waiting = []
        waiting.append(part[start:])
    if waiting:
        yield pa.concat_tables(waiting)


@dataclass
class _Writer:
    """Writes samples into one tar after another."""

    place: ExportFolder
    _number: int = -1
    _tar: tarfile.TarFile | None = None
    _file: Any = None
    _ids: list[int] = field(default_factory=list)
    _endings: set[str] = field(default_factory=set)
    _sidecars: set[str] = field(default_factory=set)

    def add(self, number: int, frame: Frame, row: dict[str, Any]) -> None:
        """Write one sample, named by its number: the image, its row and its sidecars."""
        assert frame.image is not None
        if self._tar is None:
            self._number = self.place.next_number() if self._number < 0 else self._number + 1
            self._file = self.place.files.open(f"{self.place.path}/{self._name}", "wb")
            self._tar = tarfile.TarFile.open(fileobj=self._file, mode="w|", format=tarfile.PAX_FORMAT)
        key, ending = f"{number % 2**64:016x}", _ending(frame.image)
        _add(self._tar, f"{key}.{ending}", frame.image)
        _add(self._tar, f"{key}.{ROW}", json.dumps(json_value(row), ensure_ascii=False).encode())
        for name, content in _named(frame.sidecars, ending):
            _add(self._tar, f"{key}.{name}", content)
            if len(self._sidecars) < MOST_EXTENSIONS:
                self._sidecars.add(name.lower())
        self._endings.add(ending)
        self._ids.append(number)
        if len(self._ids) >= SHARD_FRAMES or self._tar.offset >= SHARD_BYTES:
            self.finish()

    @property
    def _name(self) -> str:
        return f"frames-{self._number:06d}.tar"

    def finish(self) -> None:
        """Finish the current tar, so that it appears."""
        if self._tar is None:
            return
        self._tar.close()
        self.place.check_lock()
        self.place.note_endings(self._endings, self._sidecars)
        self.place.write_list(self._name, self._ids)
        self._file.close()
        self._tar, self._ids = None, []

    def close(self) -> None:
        """Discard the current tar if it is not finished."""
        if self._tar is not None:
            with contextlib.suppress(OSError, *storage_errors()):
                self._tar.close()  # otherwise it writes its end when it is garbage-collected
            discard(self._file)
            self._tar = None


def _named(sidecars: Sidecars, ending: str) -> Iterator[tuple[str, bytes]]:
    """The sidecars with unique names: the second `txt` becomes `2.txt`. Loaders ignore case.

    The row that an earlier export wrote is left out, because this export has a newer one.
    """
    used = {ending}
    for name, content in sidecars.files:
        if name.lower() == ROW:
            continue
        unique, number = name, 1
        while unique.lower() in used:
            number += 1
            unique = f"{number}.{name}"
        used.add(unique.lower())
        yield unique, content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # without time and owner, so that the same frames give the same bytes
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _ending(image: bytes) -> str:
    """The file extension of an image, by its content and not by its original name."""
    return ENDINGS.get(format_of(image) or "", OTHER)

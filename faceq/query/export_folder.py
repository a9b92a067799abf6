"""The folder of an export of frames: its record, its tars, and the lists of the frames in them.

`_faceq/export.json` records the selection of the export, `_faceq/<tar>.ids` lists the frames in a tar, and
`README.md` is the dataset card.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from faceq import __version__
from faceq.errors import StorageError, UsageError
from faceq.query.dataset_card import ORIGINAL_BYTES, dataset_card
from faceq.storage.faults import failure
from faceq.storage.filesystem import absolute, check_writable, filesystem, path_of, storage_errors
from faceq.storage.local_files import is_temporary
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run, new_run_id
from faceq.table.store import Table

ENDINGS = {
    **{"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"},
    **{"GIF": "gif", "TIFF": "tif", "PPM": "ppm"},
    **{"AVIF": "avif", "HEIF": "heic", "JPEG2000": "jp2", "JXL": "jxl"},
}
"""File extensions of the images in a tar, by the Pillow name of their format."""

MOST_EXTENSIONS = 100
"""Maximum number of different extensions of sidecars on the dataset card."""

_EARLIER = {"crop": "frame", "format": "keep", "faces": False}
"""What a record means that does not have these keys."""

_LISTS_AT_ONCE = 10
_TAR = re.compile(r"frames-(\d{6})\.tar$")


class ExportFolder:
    """The folder of an export, local or on S3.

    Args:
        folder: path or prefix in a store.
        s3: settings of the file system.
        columns: the columns of its rows.
        images: what its images are, for the dataset card.
    """

    def __init__(self, folder: str, s3: S3Settings, columns: pa.Schema, images: str = ORIGINAL_BYTES):
        check_writable(folder)
        self.uri = absolute(folder)
        self.path = path_of(folder)
        self.s3 = s3
        self.columns = columns
        self.images = images
        self.files: fsspec.AbstractFileSystem = filesystem(folder, s3)
        self._record: dict[str, Any] = {}
        self._lock: lock.Lock

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock on the folder inside the block. It is the lock of a table, in `_faceq`.

        Raises UsageError if another process holds it.
        """
        place = Table(f"{self.uri}/_faceq", self.s3)
        now = datetime.now(UTC).isoformat()
        run = Run(new_run_id(), __version__, [], {}, {}, now, owner=lock.owner())
        with lock.exclusive(place, run) as self._lock:
            place.remove_others(run)  # records of killed exports
            yield

    def check_lock(self) -> None:
        """Raise JobError if another export has taken over the folder."""
        self._lock.check()

    def check(self, selection: dict[str, Any]) -> dict[str, Any] | None:
        """The record of the export in the folder; None if the folder is empty. Raises UsageError if it is an
        export of another selection."""
        record = f"{self.path}/_faceq/export.json"
        self.files.invalidate_cache()
        if not self.files.exists(record):
            if self.files.exists(self.path) and not self._is_empty():
                raise UsageError(
                    f"{self.uri}: contains files that are not an export of faceq: choose an empty folder"
                )
            return None
        recorded = self._parse_record(self.files.cat_file(record))
        for key, value in selection.items():
            before = recorded.get(key, _EARLIER.get(key))
            if before != value:
                raise UsageError(
                    f"{self.uri}: contains another export ({key} was {before!r}, is now {value!r}): choose "
                    "another folder"
                )
        return recorded

    def claim(self, selection: dict[str, Any]) -> None:
        """Record the selection of this export. Raises the same errors as `check`."""
        recorded = self.check(selection)
        if recorded is None:
            self._record = {**selection, "endings": [], "sidecars": []}
            self._write_record()
        else:
            self._remove_unfinished()
            self._record = recorded
            self._write_card()

    def _parse_record(self, content: bytes) -> dict[str, Any]:
        """Parse the record of an export. Raises StorageError if it is damaged."""
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(
            isinstance(record.get(key, []), list) for key in ("endings", "sidecars")
        ):
            raise StorageError(
                f"{self.uri}: _faceq/export.json is damaged: restore it from a backup, or choose another "
                "folder"
            )
        return record

    def _is_empty(self) -> bool:
        """Whether the folder contains nothing except what an export leaves that was killed before it wrote
        its record."""
        top = self.files.ls(self.path, detail=False)
        inside = [path for folder in top for path in self.files.ls(folder, detail=False)]
        return all(path.endswith("/_faceq") for path in top) and all(
            path.endswith("/_faceq/_faceq") or is_temporary(path.rsplit("/", 1)[1]) for path in inside
        )

    def note_endings(self, endings: set[str], sidecars: set[str]) -> None:
        """Record the extensions of the images and of the sidecars in a tar that is about to appear."""
        all_endings = sorted({*self._record["endings"], *endings})
        known = self._record["sidecars"]
        all_sidecars = [*known, *sorted(sidecars.difference(known))][:MOST_EXTENSIONS]
        new = {**self._record, "endings": all_endings, "sidecars": all_sidecars}
        if new != self._record:
            self._record = new
            self._write_record()
            self._write_card()

    def _write_record(self) -> None:
        with self.files.open(f"{self.path}/_faceq/export.json", "wb") as file:
            file.write(json.dumps(self._record, indent=2).encode())

    def _write_card(self) -> None:
        endings, sidecars = self._record["endings"], self._record["sidecars"]
        card = dataset_card(endings, sidecars, self.columns, self.images)
        with self.files.open(f"{self.path}/README.md", "wb") as file:
            file.write(card.encode())

    def _remove_unfinished(self) -> None:
        """Delete the unfinished files of a killed export. They exist only on local disks, because an object
        appears complete or not at all."""
        for path in self.files.ls(self.path, detail=False):
            if path.rsplit("/", 1)[-1].startswith((".frames-", ".README.md.")):
                self.files.rm_file(path)

    def tars(self) -> list[str]:
        """Names of the existing tars."""
        names = (path.rsplit("/", 1)[-1] for path in self.files.ls(self.path, detail=False))
        return sorted(name for name in names if _TAR.match(name))

    def ids(self) -> np.ndarray:
        """(N,) int64, sorted: ids of the frames in all tars."""
        with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
            lists = pool.map(self.files.cat_file, map(self._list_of, self.tars()))
            parts = [np.array(content.split(), "S").astype(np.int64) for content in lists]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def next_number(self) -> int:
        """The next free number for a tar."""
        found = [_TAR.match(name) for name in self.tars()]
        return max((int(name[1]) for name in found if name), default=-1) + 1

    def write_list(self, name: str, ids: list[int]) -> None:
        """Write the list of the frames in a tar that is about to appear."""
        with self.files.open(self._list_of(name), "wb") as file:
            file.write("".join(f"{number}\n" for number in ids).encode())

    def _list_of(self, name: str) -> str:
        return f"{self.path}/_faceq/{name}.ids"

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn storage errors into the errors of `faults.failure`, which name the place."""
        try:
            yield
        except (OSError, *storage_errors()) as error:
            raise failure(f"{self.uri}: cannot be used", error) from None

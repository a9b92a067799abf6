"""The folder that shards are exported into: which export it holds, its tars, and which frames are in them.

`_faceq/export.json` says which export it is, `_faceq/<tar>.ids` which frames are in a tar, and `README.md`
is the dataset card.
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
from faceq.query.dataset_card import OTHER, dataset_card
from faceq.storage.faults import failure
from faceq.storage.filesystem import absolute, filesystem, is_temporary, path_of, storage_errors
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run, new_run_id
from faceq.table.store import Table

ENDINGS = {
    **{"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"},
    **{"GIF": "gif", "TIFF": "tif", "PPM": "ppm"},
}
"""File endings of the pictures in a tar, by Pillow's name of their format."""

_LISTS_AT_ONCE = 10
_TAR = re.compile(r"frames-(\d{6})\.tar$")


class ExportFolder:
    """The folder of an export, local or on S3. columns: of its rows."""

    def __init__(self, folder: str, s3: S3Settings, columns: pa.Schema):
        self.uri = absolute(folder)
        self.path = path_of(folder)
        self.s3 = s3
        self.columns = columns
        self.files: fsspec.AbstractFileSystem = filesystem(folder, s3)
        self._record: dict[str, Any] = {}
        self._lock: lock.Lock

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """The folder is this process's until the end of the block: the lock of a table, in `_faceq`.

        Raises UsageError where another process holds it.
        """
        place = Table(f"{self.uri}/_faceq", self.s3)
        now = datetime.now(UTC).isoformat()
        run = Run(new_run_id(), __version__, [], {}, {}, now, owner=lock.owner())
        with lock.exclusive(place, run) as self._lock:
            place.remove_others(run)  # records of exports that were killed
            yield

    def check_lock(self) -> None:
        """JobError if another export took this one for dead and writes here now."""
        self._lock.check()

    def check(self, selection: dict[str, Any]) -> dict[str, Any] | None:
        """The record of the export that is there, None where nothing is; UsageError if it is another one."""
        record = f"{self.path}/_faceq/export.json"
        self.files.invalidate_cache()
        if not self.files.exists(record):
            if self.files.exists(self.path) and not self._is_empty():
                raise UsageError(
                    f"{self.uri}: holds files that are not an export of faceq: name an empty folder"
                )
            return None
        there = self._recorded(self.files.cat_file(record))
        for key, value in selection.items():
            if there.get(key) != value:
                raise UsageError(
                    f"{self.uri}: holds another export ({key} {there.get(key)!r} there, {value!r} now): "
                    "name another folder"
                )
        return there

    def claim(self, selection: dict[str, Any]) -> None:
        """Record which export this is; raises as `check`."""
        there = self.check(selection)
        if there is None:
            self._record = {**selection, "endings": []}
            self._write_record()
        else:
            self._remove_unfinished()
            self._record = {**there, "endings": there.get("endings", sorted({*ENDINGS.values(), OTHER}))}
            self._write_card()

    def _recorded(self, content: bytes) -> dict[str, Any]:
        """An export's record, parsed."""
        try:
            there = json.loads(content)
        except (ValueError, RecursionError):
            there = None
        if not isinstance(there, dict) or not isinstance(there.get("endings", []), list):
            raise StorageError(
                f"{self.uri}: _faceq/export.json is damaged: restore it from a backup, or name another folder"
            )
        return there

    def _is_empty(self) -> bool:
        """Whether nothing is there but what an export that was killed before its record began to write."""
        there = self.files.ls(self.path, detail=False)
        inside = [path for folder in there for path in self.files.ls(folder, detail=False)]
        return all(path.endswith("/_faceq") for path in there) and all(
            path.endswith("/_faceq/_faceq") or is_temporary(path.rsplit("/", 1)[1]) for path in inside
        )

    def note_endings(self, endings: set[str]) -> None:
        """Which endings the pictures have of a tar that is about to appear."""
        if not endings <= {*self._record["endings"]}:
            self._record["endings"] = sorted({*self._record["endings"], *endings})
            self._write_record()
            self._write_card()

    def _write_record(self) -> None:
        with self.files.open(f"{self.path}/_faceq/export.json", "wb") as file:
            file.write(json.dumps(self._record, indent=2).encode())

    def _write_card(self) -> None:
        card = dataset_card(self._record["endings"], self.columns).encode()
        with self.files.open(f"{self.path}/README.md", "wb") as file:
            file.write(card)

    def _remove_unfinished(self) -> None:
        """What a killed export was writing (on local disks only: an object appears whole)."""
        for path in self.files.ls(self.path, detail=False):
            if path.rsplit("/", 1)[-1].startswith((".frames-", ".README.md.")):
                self.files.rm_file(path)

    def tars(self) -> list[str]:
        """Names of the tars that are there."""
        self.files.invalidate_cache()
        names = (path.rsplit("/", 1)[-1] for path in self.files.ls(self.path, detail=False))
        return sorted(name for name in names if _TAR.match(name))

    def ids(self) -> np.ndarray:
        """(N,) int64, sorted: ids of the frames in all tars."""
        with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
            lists = pool.map(self.files.cat_file, map(self._list_of, self.tars()))
            parts = [np.array(content.split(), "S").astype(np.int64) for content in lists]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def next_number(self) -> int:
        """A number that no tar has yet."""
        found = [_TAR.match(name) for name in self.tars()]
        return max((int(name[1]) for name in found if name), default=-1) + 1

    def write_list(self, name: str, ids: list[int]) -> None:
        """Which frames are in a tar that is about to appear."""
        with self.files.open(self._list_of(name), "wb") as file:
            file.write("".join(f"{number}\n" for number in ids).encode())

    def _list_of(self, name: str) -> str:
        return f"{self.path}/_faceq/{name}.ids"

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turns what storage raises into an error that names the place: see `faults.failure`."""
        try:
            yield
        except (OSError, *storage_errors()) as error:
            raise failure(f"{self.uri}: cannot be used", error) from None

"""The folder of clips that were cut: its record, and the files in it."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from faceq.errors import UsageError
from faceq.query.export import open_atomic
from faceq.query.export_folder import ExportFolder
from faceq.selection.clip_file import note_in
from faceq.selection.cut_clip import Cut
from faceq.selection.cut_copy import ENDINGS
from faceq.storage.filesystem import is_remote
from faceq.storage.local_files import is_temporary
from faceq.storage.settings import S3Settings

LIST = "clips.parquet"
"""Name of the list of clips in the folder."""


class CutFolder(ExportFolder):
    """A local folder of clips. `_faceq/export.json` records how they were chosen and cut.

    A file appears only when it is complete.
    """

    def __init__(self, folder: str):
        if is_remote(folder):
            raise UsageError(f"{folder}: clips are written to a local folder: copy them to S3 afterwards")
        super().__init__(folder, S3Settings(), pa.schema([]))

    def claim(self, selection: dict[str, Any]) -> None:
        """Record what is cut into the folder. Raises the errors of `check`."""
        if self.check(selection) is None:
            self._record = selection
            self._write_record()
            return
        for entry in os.scandir(self.path):
            # Such files are of a command that was killed: nobody else writes here while the lock is held.
            if is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file in the folder. It appears at the end of the block, unless the block fails."""
        with open_atomic(self.files, f"{self.path}/{name}") as file:
            yield file

    def existing(self, clip_id: str) -> Cut | None:
        """A clip that was cut before; None if it was not."""
        for ending in ENDINGS:
            name = f"{clip_id}.{ending}"
            times = note_in(f"{self.path}/{name}")
            if times is not None:
                return Cut(clip_id, name, *times)
        return None

    def remove(self, name: str) -> None:
        """Delete a clip."""
        os.unlink(f"{self.path}/{name}")

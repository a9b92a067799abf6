"""Read labels of images from CSV files with a column `image` and a column of labels."""

import csv
import io
from collections.abc import Sequence

from faceq.errors import UsageError
from faceq.messages.one_line import one_line
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.settings import S3Settings


def read(path: str, column: str, s3: S3Settings) -> list[tuple[str, str, str]]:
    """Read the labels in a CSV file, in the file's order.

    Args:
        path: local or `s3://`, a CSV file in UTF-8; other columns are ignored.
        column: name of the column of labels.
        s3: settings of the file system.

    Returns:
        For each line: its place for messages (`PATH, line N`), the image and the label.

    Raises:
        UsageError: there is no such file or column, it is not CSV, or a line has no image or label.
        StorageError: it cannot be read.
    """
    return [(where, line["image"], line[column]) for where, line in read_lines(path, column, (), s3)]


def read_lines(
    path: str, column: str, further: Sequence[str], s3: S3Settings
) -> list[tuple[str, dict[str, str]]]:
    """Read the lines of such a file. further: names of columns that it must have and that may be empty.

    Returns:
        For each line: its place for messages, and its values by column. Arguments and errors: see `read`.
    """
    try:
        # utf-8-sig: spreadsheets write a byte order mark before the first column's name.
        text = filesystem(path, s3).cat_file(path_of(path)).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""))
        there = lines.fieldnames or []
        rows = [(f"{path}, line {lines.line_num}", line) for line in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {one_line(error)}") from None
    except (OSError, *storage_errors()) as error:
        raise failure(f"{path}: cannot be read", error) from None
    missing = [name for name in ("image", column, *further) if name not in there]
    if missing:
        raise UsageError(f"{path}: no column {' and '.join(missing)}; found {', '.join(there) or 'none'}")
    for where, line in rows:
        if not line["image"] or not line[column]:
            raise UsageError(f"{where}: image or {column} is empty")
    return rows

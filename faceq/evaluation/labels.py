"""Lists of what people say of pictures: CSV files with a column `image` and one for what is said."""

import csv
import io

from faceq.errors import UsageError
from faceq.messages.one_line import one_line
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.settings import S3Settings


def read(path: str, column: str, s3: S3Settings) -> list[tuple[str, str, str]]:
    """Picture and label of each line, in the file's order, and before them where that is, for messages.

    Args:
        path: local or `s3://`, a CSV file in UTF-8; other columns are passed over.
        column: what the labels' column is called.

    Raises:
        UsageError: no such file, no such columns, not CSV, a line without a picture or a label.
        StorageError: it cannot be read.
    """
    try:
        # Spreadsheets put a mark before the first column's name.
        text = filesystem(path, s3).cat_file(path_of(path)).decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""))
        there = lines.fieldnames or []
        rows = [(f"{path}, line {lines.line_num}", line) for line in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {one_line(error)}") from None
    except (OSError, *storage_errors()) as error:
        raise failure(f"{path}: cannot be read", error) from None
    missing = [name for name in ("image", column) if name not in there]
    if missing:
        raise UsageError(f"{path}: no column {' and '.join(missing)}; found {', '.join(there) or 'none'}")
    for where, line in rows:
        if not line["image"] or not line[column]:
            raise UsageError(f"{where}: image or {column} is empty")
    return [(where, line["image"], line[column]) for where, line in rows]

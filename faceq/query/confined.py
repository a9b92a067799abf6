"""A DuckDB connection that can read the files it was given, and can neither read nor write any others.

Conditions and statements come from whoever sends a query, and SQL can do more than select: `read_text` reads
a file, `COPY` writes one, `ATTACH` opens a database. DuckDB itself refuses access to other files. Its list of
allowed folders also allows writing, so `check_reads_only` refuses every statement that writes.
"""

import glob
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import duckdb
import fsspec

from faceq.errors import UsageError

_READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""DuckDB's names for the parts of a statement that read. A part that writes, such as COPY in a WITH clause,
has another name."""

_EXPLAIN = re.compile(r"^\s*explain(\s+analyze)?(\s*\([\w\s,]*\))?\s", re.IGNORECASE)


def connect(
    files: Sequence[str],
    spill: str,
    store: fsspec.AbstractFileSystem | None = None,
    **settings: Any,
) -> duckdb.DuckDBPyConnection:
    """A connection whose settings are locked. Data in memory can still be registered with it.

    Args:
        files: the only files, with others in their folders, that can be read: local paths, or `s3://` URIs.
        spill: a folder that nobody else can write to, for what does not fit into memory.
        store: the file system for `s3://`.
        settings: further settings of DuckDB.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,  # a table name must not refer to a Python variable
            "temp_directory": spill,
            **settings,
        }
    )
    # DuckDB turns its progress bar on where Python looks interactive (`python -c`), and prints it to stdout.
    connection.execute("SET enable_progress_bar = false")
    if store is not None:
        connection.register_filesystem(store)
    folders = sorted({os.path.dirname(path) for path in files})
    # DuckDB checks a path once as the pattern that it is given, and once as the file that it finds.
    allowed = [f"{path}/" for folder in folders for path in dict.fromkeys((folder, glob.escape(folder)))]
    # It follows links: a file that is a link to another folder has to be named.
    links = [] if store is not None else [path for path in files if os.path.islink(path)]
    connection.execute(f"SET allowed_directories = {_list(allowed)}")
    connection.execute(f"SET allowed_paths = {_list(links)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def check_reads_only(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Raises UsageError unless the statement is one SELECT that writes nothing, or EXPLAIN before one."""
    kinds = [part.type for part in connection.extract_statements(statement)]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        # EXPLAIN ANALYZE executes what follows, which is checked as if it stood alone.
        statement = _EXPLAIN.sub("", statement, count=1)
        kinds = [part.type for part in connection.extract_statements(statement)]
    try:
        reads = kinds == [duckdb.StatementType.SELECT] and _parts(connection, statement) <= _READING
    except RecursionError:
        raise UsageError("query: the statement is nested too deeply") from None
    if not reads:
        raise UsageError("query: --sql takes one SELECT over the view `frames`, and nothing that writes")


def _parts(connection: duckdb.DuckDBPyConnection, statement: str) -> set[str]:
    """Names of the query nodes in a statement's tree; a statement without a tree has the node `NONE`."""
    text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()[0][0]
    found: set[str] = set()
    waiting = [json.loads(text)]
    for value in waiting:
        if isinstance(value, dict):
            waiting += value.values()
            kind = value.get("type")
            if isinstance(kind, str) and kind.endswith("_NODE"):
                found.add(kind)
        elif isinstance(value, list):
            waiting += value
    return found or {"NONE"}


def _list(texts: Sequence[str]) -> str:
    """SQL: a list of texts."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"

"""A DuckDB connection that can read only the given files and cannot write any file.

Queries are not trusted, and SQL can do more than select rows: `read_text` reads a file, `COPY` writes one,
`ATTACH` opens a database. DuckDB itself denies access to other files. But its list of allowed folders also
permits writing, so `check_reads_only` refuses every statement that writes.
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
"""DuckDB names of the query nodes that only read. A node that writes, such as COPY in a WITH clause, has
another name."""

_EXPLAIN = re.compile(r"^\s*explain(\s+analyze)?(\s*\([\w\s,]*\))?\s", re.IGNORECASE)


def connect(
    files: Sequence[str],
    spill: str,
    store: fsspec.AbstractFileSystem | None = None,
    **settings: Any,
) -> duckdb.DuckDBPyConnection:
    """A connection with locked settings. Tables in memory can still be registered with it.

    Args:
        files: paths or URIs. Only files in their folders can be read.
        spill: a folder that no other user can write to, for data that does not fit into memory.
        store: the file system of the files, if they are in a store.
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
    # DuckDB prints a progress bar to stdout if Python seems to be interactive (as with `python -c`).
    connection.execute("SET enable_progress_bar = false")
    if store is not None:
        connection.register_filesystem(store)
    folders = sorted({os.path.dirname(path) for path in files})
    # DuckDB checks each path twice: as the given pattern, and as the file that it finds.
    allowed = [f"{path}/" for folder in folders for path in dict.fromkeys((folder, glob.escape(folder)))]
    # DuckDB resolves symbolic links, so every file that is a link must be allowed by its path.
    links = [] if store is not None else [path for path in files if os.path.islink(path)]
    connection.execute(f"SET allowed_directories = {_list(allowed)}")
    connection.execute(f"SET allowed_paths = {_list(links)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def check_reads_only(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    """Raise UsageError unless the statement is a single SELECT that writes nothing, or EXPLAIN of one."""
    kinds = [part.type for part in connection.extract_statements(statement)]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        # EXPLAIN ANALYZE executes the statement after it, so that statement is checked on its own.
        statement = _EXPLAIN.sub("", statement, count=1)
        kinds = [part.type for part in connection.extract_statements(statement)]
    try:
        reads = kinds == [duckdb.StatementType.SELECT] and _parts(connection, statement) <= _READING
    except RecursionError:
        raise UsageError("query: the statement is nested too deeply") from None
    if not reads:
        raise UsageError("query: --sql takes one SELECT over the view `frames`, and no statement that writes")


def _parts(connection: duckdb.DuckDBPyConnection, statement: str) -> set[str]:
    """Names of the query nodes in the syntax tree of a statement; `NONE` if DuckDB returns no tree."""
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
    """SQL: a list of strings."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"

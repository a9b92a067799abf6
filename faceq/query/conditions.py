"""What a condition on a table rejects, part by part."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from faceq.errors import UsageError
from faceq.query.rows import Rows

_PREFIX = "SELECT 1 WHERE "

MOST_PARTS = 60
"""Maximum number of parts of a condition."""


@dataclass(frozen=True)
class Part:
    """A part of a condition.

    condition: as SQL. fails: number of rows that do not fulfil it. fails_alone: number of those that fulfil
    all other parts; they would pass without this one. no_value: number of rows for which it is null; they
    count as failing.
    """

    condition: str
    fails: int
    fails_alone: int
    no_value: int


@dataclass(frozen=True)
class Explanation:
    """What a condition rejects: the number of rows, of those that pass, and its parts, the one that rejects
    the most rows alone first."""

    rows: int
    passing: int
    parts: list[Part]


def explain(rows: Rows, condition: str) -> Explanation:
    """Count the rows of a table, or of its faces, that fail each part of a condition.

    The parts are those that the outermost AND joins.

    Args:
        rows: the table, of frames or of faces.
        condition: an SQL condition on its columns.

    Raises:
        UsageError: DuckDB rejects the condition, or it has more than MOST_PARTS parts.
    """
    parts = split(condition)
    if len(parts) > MOST_PARTS:
        raise UsageError(f"explain: the condition has {len(parts)} parts joined by AND: {MOST_PARTS} at most")
    rows.chosen(condition)  # a mistake is reported as in a query
    names = [f"part{at}" for at in range(len(parts))]
    columns = ", ".join(f"({part})::BOOL AS {name}" for part, name in zip(parts, names, strict=True))
    statement = f"SELECT {columns}, count(*) AS n FROM {rows.view} GROUP BY {', '.join(names)}"
    # Each row of the result is a pattern of parts that are true, false or null. There are few of them.
    patterns = rows.arrow(rows.sql(statement)).to_pylist()
    counted = [_count(part, name, names, patterns) for part, name in zip(parts, names, strict=True)]
    counted.sort(key=lambda part: (-part.fails_alone, -part.fails))
    total = sum(pattern["n"] for pattern in patterns)
    passing = sum(pattern["n"] for pattern in patterns if all(pattern[name] for name in names))
    return Explanation(total, passing, counted)


def _count(part: str, name: str, names: list[str], patterns: list[dict[str, Any]]) -> Part:
    failing = [pattern for pattern in patterns if not pattern[name]]
    others = [other for other in names if other != name]
    return Part(
        part,
        sum(pattern["n"] for pattern in failing),
        sum(pattern["n"] for pattern in failing if all(pattern[other] for other in others)),
        sum(pattern["n"] for pattern in failing if pattern[name] is None),
    )


def split(condition: str) -> list[str]:
    """The parts of an SQL condition that its outermost AND joins, as DuckDB writes them.

    Raises:
        UsageError: it is not a condition.
    """
    with duckdb.connect() as connection:
        tree = _tree(connection, condition)
        where = tree["statements"][0]["node"]["where_clause"]
        parts = where["children"] if where["type"] == "CONJUNCTION_AND" else [where]
        return [_text(connection, tree, part) for part in parts]


def _tree(connection: duckdb.DuckDBPyConnection, condition: str) -> dict[str, Any]:
    """The syntax tree of a statement with this condition."""
    statement = f"{_PREFIX}({condition}\n)"  # a comment may end the condition
    found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()[0][0]
    tree: dict[str, Any] = json.loads(found)
    if tree["error"]:
        raise UsageError(f"explain: {tree['error_message']}: {condition}")
    node = tree["statements"][0]["node"]
    more = (node.get(part) for part in ("modifiers", "group_expressions", "having", "qualify"))
    is_condition = condition.strip() and isinstance(node.get("where_clause"), Mapping) and not any(more)
    if len(tree["statements"]) > 1 or not is_condition:
        raise UsageError(f"explain: this is not a condition: {condition}")
    return tree


def _text(connection: duckdb.DuckDBPyConnection, tree: dict[str, Any], part: dict[str, Any]) -> str:
    """A part of a condition as SQL, without the brackets around it."""
    tree = copy.deepcopy(tree)
    tree["statements"][0]["node"]["where_clause"] = part
    found = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[0][0]
    text = str(found).removeprefix(_PREFIX)
    bare = text[1:-1]
    is_query = bare.upper().startswith(("SELECT ", "WITH ", "FROM "))
    return bare if text.startswith("(") and text.endswith(")") and not is_query else text

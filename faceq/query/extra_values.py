"""Values inside the column `extra`, by names such as `extra.json.identity`."""

from faceq.errors import UsageError

COLUMN = "extra"


def extra_value(name: str) -> str:
    """SQL: a value inside `extra` as text, null where it is missing.

    Args:
        name: `extra.` and the names of the keys, joined by dots.

    Raises:
        UsageError: the name does not begin with `extra.`.
    """
    column, *keys = name.split(".")
    if column != COLUMN or not all(keys) or not keys:
        raise UsageError(f"{name}: expected extra.KEY or extra.KEY.KEY, such as extra.json.identity")
    path = "".join(f'."{key}"' for key in keys).replace("'", "''")
    return f"{COLUMN} ->> '${path}'"

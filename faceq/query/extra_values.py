"""Values inside the column `extra`, by names such as `extra.json.identity`."""

import re

from faceq.errors import UsageError

COLUMN = "extra"

_NAME = re.compile(r'extra((?:\.(?:"[^"]+"|[^."*]+))+)')
_KEY = re.compile(r'\.(?:"([^"]+)"|([^."*]+))')


def extra_value(name: str) -> str:
    """SQL: a value inside `extra` as text, null where it is missing.

    Args:
        name: `extra.` and the names of the keys, joined by dots. A key that contains a dot is in double
            quotes: `extra."seg.json".identity`.

    Raises:
        UsageError: the name is not of this form.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(
            f"{name}: expected extra.KEY or extra.KEY.KEY, such as extra.json.identity; put a key with a dot "
            "into double quotes"
        )
    path = "".join(f'."{quoted or plain}"' for quoted, plain in _KEY.findall(found[1])).replace("'", "''")
    return f"{COLUMN} ->> '${path}'"

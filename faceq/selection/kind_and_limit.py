"""Options such as `hash:BITS` and `embedding:COSINE`: by what frames are compared, and a limit."""

import math
from collections.abc import Mapping


def kind_and_limit(text: str, defaults: Mapping[str, float]) -> tuple[str, float]:
    """The two parts of an option. The caller checks them.

    Args:
        text: `KIND` or `KIND:NUMBER`.
        defaults: for each kind, its limit if there is no number.

    Returns:
        The kind, and the limit; NaN if it is not a number, or if an unknown kind has none.

    Example:
        >>> kind_and_limit("hash:4", {"hash": 2}), kind_and_limit("hash", {"hash": 2})
        (('hash', 4.0), ('hash', 2))
    """
    kind, colon, number = text.partition(":")
    try:
        return kind, float(number) if colon else defaults.get(kind, math.nan)
    except ValueError:
        return kind, math.nan

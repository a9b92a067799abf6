"""Which recogniser computed the embeddings of a table."""

from faceq.errors import UsageError
from faceq.models import zoo
from faceq.presets import PRESETS
from faceq.table.store import Table


def recogniser_of(table: Table) -> str | None:
    """The name of the recogniser that computed the embeddings; None if it is a file of your own.

    Raises:
        UsageError: the runs of the table used different ones.
    """
    found: dict[str | None, str] = {}
    for run in table.runs_of(table.row_files()):
        own = (run.get("config") or {}).get("models") or {}
        preset = PRESETS.get(run.get("preset", ""))
        name = own.get("recogniser") or (preset.recogniser if preset else None)
        found.setdefault(name, run.get("preset", ""))
    if len(found) > 1:
        names = " and ".join(sorted(str(name) for name in found))
        raise UsageError(f"{table.uri}: its runs used different recognisers, {names}")
    return next(iter(found), None)


def impostors_of(recogniser: str | None) -> zoo.Impostors | None:
    """The cosines of different people for a recogniser of the zoo; None if they are not known."""
    model = zoo.MODELS.get(recogniser or "")
    return model.recogniser.impostors if model and model.recogniser else None

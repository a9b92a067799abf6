"""The page of all settings, generated from their descriptions in `faceq.config`."""

import argparse
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from faceq.cli.score import add_arguments
from faceq.config import Config
from faceq.messages.validation import section_of
from faceq.presets import PRESETS
from faceq.stage_resources import FindFaces, Pool, Stage
from faceq.stages.chosen_models import choose, comparison_record
from faceq.table.comparable import SETTINGS
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Settings

`faceq score --config job.yaml` reads settings from a YAML file; [`jobs/score.yaml`](../../jobs/score.yaml)
is an example. A setting that the file does not contain keeps its default. `faceq.Scorer`,
`faceq.score_images` and `faceq.Config` take the same names as keyword arguments. faceq refuses an unknown
key, and the message names the nearest known one.

Every command that takes `--config` also takes `--set KEY=VALUE`, for each setting on this page:

<!-- not run: the folders and the bucket are examples -->
```shell
faceq score frames/ --out scores/ --set dbcnn.batch_size=64 --set model_mirrors=[/models,s3://bucket/models]
```

KEY is the name of the setting, after the name of its section and a dot. VALUE is YAML: a number, `true`, a
string, `null` for no value, or a list. The order of precedence, lowest first: defaults, the preset's
defaults, `--config`, `--set`, flags such as `--fps`. If a key is set twice, the last one wins.

`faceq config` prints the settings that a job would use, as YAML that `--config` accepts.

## Presets

A preset chooses the models and changes some defaults ([Presets](presets.md) compares them):

"""

_RECORDED = """
## Settings that a table keeps

A job resumes a table only with the settings that its rows were made with: {recorded}. (`face_finding` is
not a setting: it is the version of the way that faces are found.) All other settings may change from run to
run. With a lower `fiq_threshold` than before, faceq scores the frames that now pass; a higher one leaves
rows as they are. A table made with `faces: largest` may also be continued with `faces: all`. A setting that
the record of an older table does not name counts as its default at that time.
"""

_SECRETS = """
### Secrets

Give credentials through the environment, a profile, or the role of the machine. Anybody on the machine can
read a command line (`ps`), and Ray keeps the command line of a submitted job. faceq refuses `s3://` URIs
that contain keys or a signature. Instead of a presigned URL, give the object's `s3://` URI and credentials.

The URL of a model mirror or a proxy may need a password. faceq replaces it by `***` in messages, logs,
records, Parquet metadata and the column `error`. It does the same with the whole query of a web address,
with parameters that sign a URL (`X-Amz-Signature`, `sig`, `token`, …), and with the values of
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` and `RAY_AUTH_TOKEN`. The columns `source` and `member` contain
names as they are: a file that is called `a.jpg?X-Amz-Signature=…` keeps its name.
"""

_STAGES = """\
These sections have the same keys. [Find out why a job is slow](../how-to/slow-job.md) says which setting
to change for which symptom.

- `find_face`: {find_face}
- `serfiq`, `dbcnn`: {pool}
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [WRITTEN, _HEAD, _presets(), _RECORDED.format(recorded=_recorded())]
    parts.append(_section("The job", "", Config))
    for name, field in Config.model_fields.items():
        section = section_of(field.annotation)
        if section is None or issubclass(section, Stage):
            continue
        parts.append(_section(name, f"{name}.", section))
        if name == "s3":
            parts.append(_SECRETS)
    about = {"find_face": _text_of(FindFaces), "pool": _text_of(Pool)}
    parts.append(_section("find_face, serfiq, dbcnn", "dbcnn.", Pool, _STAGES.format(**about)))
    return "".join(parts)


def _presets() -> str:
    """A table of the settings that presets change, with a row for each setting."""
    settings = {key: None for preset in PRESETS.values() for key in preset.settings}
    roles = ("detector", "recogniser", "landmarks", "quality")
    rows = [
        [f"`models.{role}`", *(_code(getattr(preset, role)) for preset in PRESETS.values())] for role in roles
    ]
    for key in settings:
        default = Config.model_fields[key].default
        rows.append([f"`{key}`", *(_code(preset.settings.get(key, default)) for preset in PRESETS.values())])
    return table(["setting", *(f"`{name}`" for name in PRESETS)], rows)


def _recorded() -> str:
    config = Config()
    names = [SETTINGS.get(key, key) for key in comparison_record(config, choose(config))]
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"


def _section(title: str, prefix: str, section: type[BaseModel], about: str = "") -> str:
    """Heading, description and table of the settings of a section."""
    flags = _flags()
    intro = _text_of(section) if section is not Config else ""
    lines = [f"\n## {title}\n"]
    if about or intro:
        lines.append(f"\n{about or intro}".rstrip() + "\n")
    rows = []
    for name, field in section.model_fields.items():
        flag = flags.get(f"{prefix}{name}", "")
        told = f"`{flag}`" if flag else ""
        rows.append((f"`{name}`", _type(field), _default(name, field), told, field.description or ""))
        own = FindFaces.model_fields.get(name) if section is Pool else None
        if own is not None and own.description != field.description:
            rows[-1] = (*rows[-1][:-1], f"Of `serfiq` and `dbcnn`. {field.description}")
            text = f"Of `find_face`. {own.description}"
            rows.append((f"`{name}`", _type(own), _default(name, own), told, text))
    lines += ["\n", table(("setting", "type", "default", "flag", "description"), rows)]
    return "".join(lines)


def _text_of(section: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _flags() -> dict[str, str]:
    """The flag of `faceq score` that sets a setting, by its dotted key."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    written = {action.dest: _written(action) for action in parser._actions}
    return {key: written[key.rpartition(".")[2]] for key in _keys() if key.rpartition(".")[2] in written}


def _written(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar)


def _keys() -> Iterator[str]:
    """Settings that may have a flag. Resources of the stages have none."""
    yield from Config.model_fields
    for name in ("models", "video"):
        section = section_of(Config.model_fields[name].annotation)
        yield from (f"{name}.{key}" for key in (section.model_fields if section else ()))


def _type(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    kinds = get_args(field.annotation)
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (each for each in kinds if each is not type(None))
    if section_of(kind) is not None:
        return "section"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    words = {int: "integer", float: "number", bool: "boolean", str: "string", tuple: "list of strings"}
    word = words[typing.cast(type, get_origin(kind) or kind)]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(each, name):,}"
        for each in field.metadata
        for name, sign in signs.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join([word, *bounds])


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    section = section_of(field.annotation)
    if section is None:
        return _code(field.default)
    title = "find_face-serfiq-dbcnn" if issubclass(section, Stage) else name
    return f"[below](#{title})" if field.default is not None else f"none; [keys](#{title})"


def _code(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {inner}`" for key, inner in value.items())
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"

"""`faceq config`, and the settings of every command: `--config`, `--set`, and flags of their own."""

import argparse
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from faceq import config
from faceq.config import Config
from faceq.messages.masking import masked
from faceq.messages.one_line import one_line
from faceq.messages.validation import section_of


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`."""
    add = parser.add_argument
    add("--config", metavar="job.yaml", help="YAML settings file; --set and other flags override it")
    what = "override one setting, such as --set dbcnn.batch_size=64; the value is YAML (repeatable)"
    add("--set", type=assignment, action="append", default=[], metavar="KEY=VALUE", help=what)


def load_settings(options: argparse.Namespace, overrides: Mapping[str, Any] | None = None) -> Config:
    """The settings of a command: the defaults, the preset's, those of `--config`, `--set`, and `overrides`
    from other flags; each overrides those before it. Raises UsageError."""
    return config.load(options.config, overrides or {}, options.set)


def assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` as a dotted key and a value read as YAML. Raises ArgumentTypeError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, such as dbcnn.batch_size=64, got {text!r}")
    _check_key(key)
    try:
        return key, yaml.safe_load(value)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error)
        raise argparse.ArgumentTypeError(f"{key}: the value is not valid YAML: {reason}") from None


def _check_key(key: str) -> None:
    """Refuse a key that is not a setting; the error names the most similar one, or all settings with that
    name."""
    known = [name for name, _ in all_settings()]
    if key in known:
        return
    near = [name for name in known if name.endswith(f".{key}")]
    near = near or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`faceq config` lists all settings"
    raise argparse.ArgumentTypeError(f"unknown key {key!r}: {hint}")


def all_settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its dotted key; a section comes before its settings."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", field
        inner = section_of(field.annotation)
        if inner is not None:
            yield from all_settings(inner, f"{prefix}{name}.")


def brief(key: str) -> str:
    """A setting's help text: the first sentence of its description."""
    description = dict(all_settings())[key].description or ""
    sentence = description.split(". ")[0].rstrip(".").replace("`", "")
    return (sentence[0].lower() + sentence[1:]).replace("%", "%%")


_CONFIG = """Prints the settings that a job would use, as YAML for --config: the defaults, overridden by the
preset, the settings file and --set. Passwords in URLs are replaced by ***."""

_CONFIG_EXAMPLES = """examples:
  faceq config > job.yaml
  faceq config --preset cafi --set dbcnn.batch_size=64
  faceq config --config job.yaml --set video.fps=2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq config`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _CONFIG, _CONFIG_EXAMPLES
    add_config_arguments(parser)
    parser.add_argument("--preset", metavar="NAME", help=f"{brief('preset')} (default: embedded)")
    parser.set_defaults(run=run_config, only_prints=lambda options: True)


def run_config(options: argparse.Namespace) -> int:
    """`faceq config`: print the effective settings."""
    settings = load_settings(options, {"preset": options.preset})
    print("# If batch_size and mini_batch are missing, a job chooses them for its CPUs or GPUs.")
    print(as_yaml(settings), end="")
    return 0


def as_yaml(settings: Config) -> str:
    """The settings as YAML from which the same settings are loaded; secrets are masked.

    Settings that a job chooses for its machine are left out if they are not set.
    """
    values = settings.model_dump(mode="json")
    for name in ("find_face", "serfiq", "dbcnn"):
        given = getattr(settings, name).model_fields_set
        for key in {"batch_size", "mini_batch"} & values[name].keys() - given:
            del values[name][key]
    return yaml.safe_dump(masked(values), sort_keys=False, allow_unicode=True, width=100)

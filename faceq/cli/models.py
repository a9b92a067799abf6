"""`faceq models`, and the arguments of other commands that choose models."""

import argparse
from typing import Any

import rich.console
import rich.table

from faceq import config
from faceq.cli.settings import add_config_arguments, brief, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.models import cache, fetch, zoo

ROLES = ("detector", "recogniser", "landmarks", "quality")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose a preset, replace its models, and accept their licences."""
    add = parser.add_argument
    add("--preset", metavar="NAME", help=f"{brief('preset')} (default: embedded)")
    for role in ROLES:
        what = f"{role} model instead of the preset's: a name from `faceq models list`, or a file"
        add(f"--{role}", metavar="MODEL", help=what)
    add("--dropout", type=float, metavar="X", help=brief("dropout"))
    add_accept(parser)


def add_accept(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--accept-licence", "--accept-license"),
        action="store_true",
        default=None,
        help=brief("accept_licence"),
    )


def model_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings for `config.load` from these arguments; None where an argument is not given."""
    swapped = {role: getattr(options, role) for role in ROLES if getattr(options, role) is not None}
    return {
        "preset": options.preset,
        "models": swapped or None,
        "dropout": options.dropout,
        "accept_licence": options.accept_licence,
    }


_PULL_EXAMPLES = """examples:
  faceq models pull
  faceq models pull --preset insightface --accept-licence
  faceq models pull --preset insightface --to s3://bucket/models   (for machines without internet: set
                                                    model_mirrors: s3://bucket/models in job.yaml)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `faceq models`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, action, text in (
        ("list", list_models, "list all models with size, licence and state"),
        ("pull", pull_models, "download models, and replace corrupt copies"),
        ("verify", verify_models, "check the SHA-256 of the local copies; exit status 1 if one is wrong"),
    ):
        command = actions.add_parser(name, help=text, description=text)
        if name != "list":
            what = "model names (default: those of the preset)"
            command.add_argument("names", nargs="*", metavar="MODEL", help=what)
            command.add_argument("--preset", metavar="NAME", help="set of models (default: embedded)")
        if name == "pull":
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.epilog = _PULL_EXAMPLES
            what = "also copy the models to this folder or URI"
            command.add_argument("--to", metavar="URI", help=what)
            add_config_arguments(command)
            add_accept(command)
        # `verify` is also run for its exit status.
        command.set_defaults(run=action, only_prints=lambda options: options.run is list_models)


def list_models(options: argparse.Namespace) -> int:
    """`faceq models list`."""
    table = rich.table.Table(box=None, pad_edge=False)
    for title in ("model", "role", "size", "licence", "state"):
        table.add_column(title, justify="right" if title == "size" else "left")
    for model in zoo.MODELS.values():
        size = f"{model.size / 1e6:.1f} MB" if model.size else "unknown"
        table.add_row(model.name, model.role, size, model.licence, visible(cache.state(model)))
    rich.console.Console().print(table)
    where = visible(str(cache.cache_dir()))
    print(f"\nstored in {where} (FACEQ_CACHE); downloaded when needed, or by `faceq models pull`")
    return 0


def pull_models(options: argparse.Namespace) -> int:
    """`faceq models pull`."""
    from faceq.stages.chosen_models import fetch_options  # noqa: PLC0415 - OpenCV takes a while to import

    said = {"preset": options.preset, "accept_licence": options.accept_licence}
    settings = load_settings(options, said)
    access = fetch_options(settings)
    for name in _named_models(options, settings):
        path = fetch.fetch(name, access)
        print(f"{name}: ok: {visible(str(path))}")
        if options.to:
            print(f"{name}: copied to {visible(fetch.copy(name, path, options.to, settings.s3))}")
    return 0


def verify_models(options: argparse.Namespace) -> int:
    """`faceq models verify`."""
    settings = config.load(None, {"preset": options.preset})
    states = {name: cache.state(zoo.get(name)) for name in _named_models(options, settings)}
    for name, state in states.items():
        print(f"{name}: {visible(state)}")
    return 1 if any(state.startswith(("corrupt", "unreadable")) for state in states.values()) else 0


def _named_models(options: argparse.Namespace, settings: config.Config) -> list[str]:
    for name in options.names:
        if name not in zoo.MODELS:
            raise UsageError(f"unknown model {name!r}: choose from {', '.join(zoo.MODELS)}")
    return options.names or list(settings.chosen.models())

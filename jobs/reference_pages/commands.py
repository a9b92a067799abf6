"""The page of all commands, written from the parser of the command line: `faceq.cli`."""

import argparse
import re
from collections.abc import Iterator

from faceq.cli import main
from faceq.cli.settings import all_settings
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Commands

`faceq COMMAND --help` shows the same for one command. [Exit status](exit-status.md) says how commands end.

"""

_EVERY = """
Every command also takes these options, before or after its name:

"""

_SETTINGS = {"model": "models", "fps": "video.fps", "every": "video.every"}
"""Options that set a setting of another name."""


def page() -> str:
    """The whole page, Markdown."""
    parser = main._parser(list(main.COMMANDS))
    commands = _subparsers(parser)
    rows = [(f"[`faceq {name}`](#faceq-{name})", summary) for name, (_, summary) in main.COMMANDS.items()]
    shared = {action.dest for action in parser._actions}
    parts = [WRITTEN, _HEAD, table(("command", "what it does"), rows), _EVERY]
    own = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    parts.append(_options(own))
    for name, command in commands.items():
        parts += _command(f"faceq {name}", command, 2, shared)
    return "".join(parts)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def _command(name: str, parser: argparse.ArgumentParser, level: int, shared: set[str]) -> Iterator[str]:
    """A heading, what the command does, its usage, arguments, options and examples; then its actions."""
    actions = [action for action in parser._actions if action.dest not in shared]
    inner = _subparsers(parser)
    yield f"\n{'#' * level} {name}\n"
    description, examples = _split(parser)
    if description:
        yield f"\n{description}\n"
    yield f"\n```text\n{_usage(name, actions)}\n```\n"
    positionals = [
        a for a in actions if not a.option_strings and not isinstance(a, argparse._SubParsersAction)
    ]
    if positionals:
        rows = [(f"`{_metavar(action)}`", action.help or "") for action in positionals]
        yield f"\n{table(('argument', 'description'), rows)}"
    options = [action for action in actions if action.option_strings]
    if options:
        yield f"\n{_options(options)}"
    for group in parser._mutually_exclusive_groups:
        names = [f"`{a.option_strings[-1]}`" for a in group._group_actions if a.dest not in shared]
        if len(names) > 1:
            yield f"\nAt most one of {', '.join(names[:-1])} and {names[-1]}.\n"
    if examples:
        yield "\n<!-- not run: the names stand for your own files and tables -->\n"
        yield f"```shell\n{examples}\n```\n"
    summaries = {
        choice.dest: choice.help
        for a in parser._actions
        if a.choices is inner
        for choice in a._get_subactions()
    }
    for action, command in inner.items():
        command.description = command.description or summaries.get(action)
        yield from _command(f"{name} {action}", command, level + 1, shared)


def _split(parser: argparse.ArgumentParser) -> tuple[str, str]:
    """What a command does, as one paragraph, and its examples: lines that begin with its name."""
    text = f"{parser.description or ''}\n\n{parser.epilog or ''}".replace("%%", "%")
    lines = [line.strip() for line in text.splitlines() if line.strip() != "examples:"]
    examples, about, continued = [], [], False
    for line in lines:
        if line.startswith("faceq ") or continued:
            examples.append(re.sub(r"   +\((.*)\)$", r"  # \1", line))
        else:
            about.append(line)
        continued = line.endswith("\\")
    return " ".join(filter(None, about)), "\n".join(examples)


def _usage(name: str, actions: list[argparse.Action]) -> str:
    """The command with its arguments and required options; `[OPTIONS]` stands for the rest."""
    words = [name]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            words.append(str(action.metavar))
        elif not action.option_strings:
            repeated = f"{_metavar(action)}..." if action.nargs in ("*", "+") else _metavar(action)
            words.append(f"[{repeated}]" if action.nargs in ("*", "?") else repeated)
        elif action.required:
            words.append(f"{action.option_strings[-1]} {_metavar(action)}")
    if any(action.option_strings and not action.required for action in actions):
        words.append("[OPTIONS]")
    return " ".join(words)


def _metavar(action: argparse.Action) -> str:
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    return str(action.metavar or choices)


_DEFAULT = re.compile(r"\s*\(default: ([^()]*(?:\([^()]*\))?[^()]*)\)$|^default: (.*)$")


def _options(actions: list[argparse.Action]) -> str:
    rows = []
    for action in actions:
        value = "" if action.nargs == 0 else f" {_metavar(action)}"
        names = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
        help_ = (action.help or "").replace("%%", "%")
        said = _DEFAULT.search(help_)
        default = next(filter(None, said.groups())) if said else _default(action)
        if action.required:
            default = "required"
        rows.append((names, default, _DEFAULT.sub("", help_)))
    return table(("option", "default", "description"), rows)


def _default(action: argparse.Action) -> str:
    """The default that an option has by itself or by its setting, if there is one to speak of."""
    if action.nargs == 0 or action.default is argparse.SUPPRESS:
        return ""
    if action.default not in (None, []):
        return f"`{action.default}`"
    settings = dict(all_settings())
    field = settings.get(_SETTINGS.get(action.dest, action.dest))
    return f"`{field.default}`" if field is not None and isinstance(field.default, str | float | int) else ""

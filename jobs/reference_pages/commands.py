"""The page of all commands, generated from the parser in `faceq.cli`."""

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
"""Options whose setting has another name."""


def page() -> str:
    """The whole page as Markdown."""
    parser = main._parser(list(main.COMMANDS))
    rows = [(f"[`faceq {name}`](#faceq-{name})", summary) for name, (_, summary) in main.COMMANDS.items()]
    own = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    parts = [WRITTEN, _HEAD, table(("command", "what it does"), rows), _EVERY, _options(own)]
    shared = {action.dest for action in own}
    for name, command in _subparsers(parser).items():
        parts += _command(f"faceq {name}", command, 2, shared)
    return "".join(parts)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def _command(name: str, parser: argparse.ArgumentParser, level: int, shared: set[str]) -> Iterator[str]:
    """Heading, description, usage, arguments, options and examples of a command, then its subcommands."""
    actions = [action for action in parser._actions if action.dest not in shared]
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
    for action, command in _subparsers(parser).items():
        yield from _command(f"{name} {action}", command, level + 1, shared)


def _split(parser: argparse.ArgumentParser) -> tuple[str, str]:
    """The description of a command as one paragraph, and its examples, which are lines that begin with
    `faceq`."""
    text = f"{parser.description or ''}\n\n{parser.epilog or ''}".replace("%%", "%")
    text = re.sub(r"(?m)^examples:$", "", text)
    # A remark in parentheses after an example becomes a comment. It may continue on the next line.
    text = re.sub(
        r"   +\(([^()]*)\)$", lambda found: "  # " + " ".join(found[1].split()), text, flags=re.MULTILINE
    )
    examples: list[str] = []
    about: list[str] = []
    for line in map(str.strip, text.splitlines()):
        is_example = line.startswith("faceq ") or (examples and examples[-1].endswith("\\"))
        (examples if is_example else about).append(line)
    said = " ".join(filter(None, about))
    sentence = said[:1].upper() + said[1:] + ("" if not said or said.endswith((".", ":")) else ".")
    return sentence, "\n".join(examples)


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


_DEFAULT = re.compile(r"\s*\(default: ((?:[^()]|\([^()]*\))*)\)|^default: (.*)$")


def _options(actions: list[argparse.Action]) -> str:
    rows = []
    for action in actions:
        value = "" if action.nargs == 0 else f" {_metavar(action)}"
        names = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
        text = (action.help or "").replace("%%", "%").removesuffix(f" ({action.default})")
        said = _DEFAULT.search(text)
        default = next(filter(None, said.groups())) if said else _default(action)
        default = default if " " in default or not default else f"`{default}`"
        rows.append((names, "required" if action.required else default, _DEFAULT.sub("", text)))
    return table(("option", "default", "description"), rows)


def _default(action: argparse.Action) -> str:
    """The default of an option or of its setting, or an empty string."""
    if action.nargs == 0 or action.default is argparse.SUPPRESS:
        return ""
    if action.default not in (None, []):
        return str(action.default)
    settings = dict(all_settings())
    field = settings.get(_SETTINGS.get(action.dest, action.dest))
    return str(field.default) if field is not None and isinstance(field.default, str | float | int) else ""

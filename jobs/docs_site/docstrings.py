"""Check that all public names have a description: those in `faceq.__all__`, their members and parameters."""

import functools
from collections.abc import Collection, Iterator
from pathlib import Path

import griffe

from jobs.docs_site.pages import ROOT

PAGE = "docs/reference/python.md"


@functools.cache
def package(root: Path = ROOT, name: str = "faceq") -> griffe.Module:
    """The package, read from its files without importing it."""
    loader = griffe.GriffeLoader(search_paths=[root], docstring_parser=griffe.Parser.google)
    found = loader.load(name)
    loader.resolve_aliases(external=False)
    assert isinstance(found, griffe.Module)
    return found


def public_names(found: griffe.Module) -> list[str]:
    """The names in the package's `__all__`."""
    return [str(name).strip("'\"") for name in found.exports or []]


def target(found: griffe.Module, name: str) -> griffe.Object:
    """The object that a public name refers to, wherever it is defined."""
    inner = found[name]
    return inner.final_target if inner.is_alias else inner


def members(path: str) -> set[str]:
    """The paths of a public object's public members, which mkdocstrings uses as anchors."""
    name = path.partition(".")[2]
    found = package()
    if not name or name not in found.members:
        return set()
    return {f"{path}.{member.name}" for member in _public(target(found, name))}


def problems(found: griffe.Module | None = None, page: str | None = None) -> Iterator[str]:
    """One line for each public name that lacks a description or is not on the page of the API."""
    found = found or package()
    page = (ROOT / PAGE).read_text(encoding="utf-8") if page is None else page
    for name in public_names(found):
        if f"::: {found.name}.{name}\n" not in f"{page}\n":
            yield f"{PAGE}:1: undocumented public name: add `::: {found.name}.{name}`"
        yield from _missing(target(found, name))


def _missing(thing: griffe.Object, described: Collection[str] = ()) -> Iterator[str]:
    """One line for each description that an object and its members lack. `described`: the members that the
    docstring of the class describes."""
    if not thing.docstring:
        if thing.name not in described and not _field_description(thing):
            yield f"{_place(thing)}: undocumented public name: {thing.path} has no docstring"
        return
    parts = thing.docstring.parsed
    if isinstance(thing, griffe.Function):
        yield from _missing_parameters(thing, parts)
        if str(thing.returns) != "None" and not _named(parts, griffe.DocstringSectionKind.returns):
            yield f"{_place(thing)}: undocumented result: {thing.path} needs a section `Returns:`"
    elif isinstance(thing, griffe.Class):
        first = thing.members.get("__init__")
        if isinstance(first, griffe.Function):
            yield from _missing_parameters(first, parts)
        for member in _public(thing):
            yield from _missing(member, _named(parts, griffe.DocstringSectionKind.attributes))


def _missing_parameters(function: griffe.Function, parts: list[griffe.DocstringSection]) -> Iterator[str]:
    known = _named(parts, griffe.DocstringSectionKind.parameters)
    known |= _named(parts, griffe.DocstringSectionKind.attributes)  # those of a dataclass are parameters
    for parameter in function.parameters:
        if parameter.name not in ("self", "cls", *known):
            yield f"{_place(function)}: undocumented parameter: {parameter.name} of {function.path}"


def _public(thing: griffe.Object) -> Iterator[griffe.Object]:
    """The public members of a class, except those that override a member of a base."""
    bases = thing.mro() if isinstance(thing, griffe.Class) else []
    known = {"model_config"}.union(*(base.members for base in bases))
    for name, member in thing.members.items():
        if isinstance(member, griffe.Object) and not name.startswith("_") and name not in known:
            yield member


def _named(parts: list[griffe.DocstringSection], kind: griffe.DocstringSectionKind) -> set[str]:
    """The names that a docstring's sections of a kind describe."""
    return {item.name.lstrip("*") for part in parts if part.kind is kind for item in part.value}


def _field_description(thing: griffe.Object) -> bool:
    """Whether the object is a setting with a description: `Field(..., description="...")`."""
    value = thing.value if isinstance(thing, griffe.Attribute) else None
    return isinstance(value, griffe.ExprCall) and any(
        isinstance(each, griffe.ExprKeyword) and each.name == "description" for each in value.arguments
    )


def _place(thing: griffe.Object) -> str:
    path = thing.filepath
    where = path.relative_to(ROOT) if isinstance(path, Path) and path.is_relative_to(ROOT) else path
    return f"{where}:{thing.lineno}"

"""Find links and anchors in Markdown text, with their lines."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

_UNDEFINED = re.compile(r"\[[^\[\]]+\]\[[^\[\]]*\]")
"""Matches `[text][name]`, which stays plain text if `name` is not defined."""


@dataclass(frozen=True)
class Link:
    """The target of a link or an image as written, and its line, counted from 1."""

    target: str
    line: int


@dataclass
class Document:
    """The result of `read`.

    links: links and images, in order. anchors: of headings, as on GitHub, and of HTML elements. undefined:
    references such as `[text][name]` without a definition. blocks: the number of list items, tables and code
    blocks, by HTML tag.
    """

    links: list[Link] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    undefined: list[Link] = field(default_factory=list)
    blocks: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("ul", "ol", "li", "table", "pre"), 0)
    )


class _LinksAsWritten(MarkdownIt):
    """A parser that keeps the targets of links as they are in the text."""

    def normalizeLink(self, url: str) -> str:  # noqa: N802 - the base's name
        return url

    def validateLink(self, url: str) -> bool:  # noqa: N802 - as above
        return True


def read(text: str) -> Document:
    """The links and anchors of a text in GitHub's Markdown."""
    parser = _LinksAsWritten("commonmark").enable(["table", "strikethrough"])
    environment: dict[str, dict[str, dict[str, list[int]]]] = {}
    tokens = parser.parse(text, environment)
    found = Document()
    lines = text.split("\n")
    definitions = environment.get("references", {})
    for number, token in enumerate(tokens):
        if token.nesting == 1 and token.tag in found.blocks:
            found.blocks[token.tag] += 1
        if token.type in ("fence", "code_block"):
            found.blocks["pre"] += 1
        elif token.type == "html_block":
            _read_html(token.content, (token.map or [0])[0] + 1, found)
        elif token.type == "inline":
            _read_inline(token, lines, definitions, found)
            if tokens[number - 1].type == "heading_open":
                found.anchors.add(
                    slug("".join(c.content for c in token.children or [] if not c.tag or c.tag == "code"))
                )
    return found


def slug(heading: str) -> str:
    """The anchor of a heading, as on GitHub and on the site."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


def _read_inline(
    token: Token, lines: list[str], definitions: dict[str, dict[str, list[int]]], found: Document
) -> None:
    start, end = token.map or [0, len(lines)]
    at = start
    for child in token.children or []:
        match child.type:
            case "link_open" | "image":
                target = str(child.attrs.get("href", child.attrs.get("src", "")))
                # The parser does not give the line of a link. Use the next line that contains the target.
                there = (number for number in range(at, end) if target in lines[number])
                defined = (d["map"][0] for d in definitions.values() if d["href"] == target)
                line = next(there, None)
                at = at if line is None else line
                found.links.append(Link(target, 1 + (next(defined, at) if line is None else line)))
            case "html_inline":
                _read_html(child.content, at + 1, found)
            case "text":
                for text in _UNDEFINED.findall(child.content):
                    found.undefined.append(Link(text, at + 1))
            case "softbreak" | "hardbreak":
                at = min(at + 1, end - 1)


def _read_html(html: str, line: int, found: Document) -> None:
    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                if value and name in ("href", "src"):
                    found.links.append(Link(value, line + self.getpos()[0] - 1))
                elif value and name in ("id", "name"):
                    found.anchors.add(value)

    Reader().feed(html)

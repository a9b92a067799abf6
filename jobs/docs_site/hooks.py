"""Hooks of mkdocs: they add pages and files from outside docs/ to the site, and links to them."""

import logging
import posixpath
import re
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jobs.docs_site.markdown import read
from jobs.docs_site.pages import ELSEWHERE, FILES, ROOT, in_clone, markdown_files, site_uri

log = logging.getLogger("mkdocs.hooks.faceq")  # `--strict` counts warnings of this logger


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, and other files of the clone that pages link to."""
    for path, uri in ELSEWHERE.items():
        if (ROOT / path).exists():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for path in sorted(_linked_files()):
        files.append(File.generated(config, f"{FILES}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change links to paths in the clone to the paths on the site."""
    uri = page.file.src_uri
    for target in {link.target for link in read(markdown).links}:
        path = _path_in_clone(in_clone(uri), target)
        if path is None:
            continue
        place = site_uri(path) or f"{FILES}/{path}"
        there = posixpath.relpath(place, posixpath.dirname(uri) or ".")
        parts = urlsplit(target)
        if there != parts.path:
            new = parts._replace(path=there).geturl()
            for opening in ("](", "]: ", 'href="', 'src="'):
                markdown = re.sub(re.escape(opening + target) + r'(?=[)\s"]|$)', opening + new, markdown)
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warn of a page whose lists, tables or code blocks differ between the site and GitHub.

    Python-Markdown needs four spaces before the content of a list item, and an empty line before a list or a
    table. GitHub does not.
    """
    markdown = page.markdown or ""
    if "\n::: " not in markdown:
        for tag, wanted in read(markdown).blocks.items():
            found = len(re.findall(rf"<{tag}[ >]", html))
            if found != wanted:
                log.warning(
                    "%s: %d <%s> on the site, but %d on GitHub: put an empty line before lists and tables, "
                    "and indent what belongs to a list item by four spaces",
                    *(in_clone(page.file.src_uri), found, tag, wanted),
                )
    return html


def _linked_files() -> set[str]:
    """Files of the clone that are not pages, and that pages of the site link to."""
    found = set()
    for name in markdown_files():
        if site_uri(name) is not None:
            for link in read((ROOT / name).read_text(encoding="utf-8")).links:
                path = _path_in_clone(name, link.target)
                if path is not None and not path.startswith("docs/") and site_uri(path) is None:
                    found.add(path)
    return found


def _path_in_clone(name: str, target: str) -> str | None:
    """The file of the clone to which a link of a page points. None if it does not point to a file."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
    return path if (ROOT / path).is_file() else None

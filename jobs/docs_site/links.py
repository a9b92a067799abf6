"""Find broken links in the pages, with file and line. Addresses on the web are not checked."""

import difflib
import functools
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.docs_site import docstrings
from jobs.docs_site.markdown import Document, read
from jobs.docs_site.pages import ROOT, markdown_files, site_uri


def problems(root: Path = ROOT) -> Iterator[str]:
    """One line for each broken link: to a missing file, to a missing anchor, or to a file that is not on the
    site."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in markdown_files(root)}
    documents = {name: read(text) for name, text in texts.items()}
    for name, text in texts.items():
        documents[name].anchors |= _documented(text)
    for name, document in documents.items():
        for link in document.undefined:
            yield f"{name}:{link.line}: broken link: {link.target}: nothing defines it"
        for link in document.links:
            what = _wrong(root, documents, name, link.target)
            if what:
                yield f"{name}:{link.line}: broken link: {link.target}: {what}"


def _documented(text: str) -> set[str]:
    """The anchors that mkdocstrings creates for `::: faceq.Name`."""
    names = re.findall(r"^::: (\S+)", text, re.MULTILINE)
    return set(names).union(*(docstrings.members(name) for name in names)) if names else set()


def _wrong(root: Path, documents: dict[str, Document], name: str, target: str) -> str | None:
    """Why a link of a page is broken. None if it is not."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    there = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    if path.startswith("/") or there.startswith(".."):
        return "write it relative to this file, and stay inside the clone"
    if not _exists(root, there):
        return f"there is no such file{_nearest(there, name, documents)}"
    unseen = (root / there).is_dir() or (there.endswith(".md") and site_uri(there) is None)
    if unseen and site_uri(name) is not None:
        return "the site does not show it: link to a page that is in mkdocs.yml, or to a file of another kind"
    anchors = documents[there].anchors if there in documents else None
    anchor = unquote(parts.fragment)
    if anchor and anchors is not None and anchor not in anchors:
        near = difflib.get_close_matches(anchor, anchors, n=1)
        return f"{there} has no such heading" + (f": did you mean #{near[0]}?" if near else "")
    return None


def _exists(root: Path, path: str) -> bool:
    """Whether a file or folder with exactly this name exists: some file systems ignore case."""
    return path == "." or (posixpath.basename(path) in _names(root / posixpath.dirname(path)))


@functools.cache
def _names(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder) if folder.is_dir() else ())


def _nearest(there: str, name: str, documents: dict[str, Document]) -> str:
    """Suggest a page with a similar name."""
    if not there.endswith(".md"):
        return ""
    same = [path for path in documents if posixpath.basename(path) == posixpath.basename(there)]
    near = same if len(same) == 1 else difflib.get_close_matches(there, documents, n=1, cutoff=0.8)
    where = posixpath.relpath(near[0], posixpath.dirname(name) or ".") if near else ""
    return f": did you mean {where}?" if where else ""

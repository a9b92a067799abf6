"""What mkdocs calls while it builds the site."""

import logging
from types import SimpleNamespace
from typing import Any

import markdown
import pytest
from mkdocs.structure.files import File, Files

from jobs.docs_site import hooks


def page(uri: str, text: str = "") -> Any:
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri), markdown=text)


@pytest.mark.parametrize(
    ("uri", "link", "on_the_site"),
    [
        ("architecture.md", "../CONTRIBUTING.md#tests", "contributing.md#tests"),
        ("how-to/cluster.md", "../../CHANGELOG.md", "../changelog.md"),
        ("how-to/cluster.md", "../../jobs/score.yaml", "../files/jobs/score.yaml"),
        ("contributing.md", "docs/architecture.md#layers", "architecture.md#layers"),
        ("contributing.md", ".ci/run", "files/.ci/run"),
        ("decisions/README.md", "../../Makefile", "../files/Makefile"),
        ("how-to/cluster.md", "gpu.md", "gpu.md"),
        ("how-to/cluster.md", "https://example.org/CHANGELOG.md", "https://example.org/CHANGELOG.md"),
        ("how-to/cluster.md", "../../nothing.md", "../../nothing.md"),
    ],
)
def test_links_lead_to_where_the_site_has_their_targets(uri, link, on_the_site):
    text = 'See [this]({0}), <a href="{0}">that</a> and [a third][3].\n\n```text\n{0}\n```\n\n[3]: {0}\n'
    done = hooks.on_page_markdown(text.format(link), page(uri), Any, Any)
    expected = text.replace("```text\n{0}", f"```text\n{link}").format(on_the_site)
    assert done == expected


def test_files_of_the_clone_that_pages_link_to_are_on_the_site(monkeypatch):
    made = []
    monkeypatch.setattr(File, "generated", lambda config, uri, abs_src_path: made.append(uri) or uri)
    monkeypatch.setattr(Files, "append", lambda self, file: None)
    hooks.on_files(Files([]), Any)
    assert {"contributing.md", "changelog.md", "security.md", "files/jobs/score.yaml"} <= set(made)


@pytest.mark.parametrize(
    ("text", "tag", "mended"),
    [
        ("Text:\n- a list right below\n", "ul", "Text:\n\n- a list right below\n"),
        ("1. an item\n   - an inner one\n", "ul", "1. an item\n    - an inner one\n"),
        ("Text:\n| a | b |\n|---|---|\n", "table", "Text:\n\n| a | b |\n|---|---|\n"),
    ],
)
def test_a_page_that_differs_from_githubs_view_of_it_is_named(text, tag, mended, caplog):
    for written in (text, mended):
        html = markdown.markdown(written, extensions=["tables", "pymdownx.superfences"])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert hooks.on_page_content(html, page("how-to/x.md", written), Any, Any) == html
        said = f"docs/how-to/x.md: 0 <{tag}> on the site, but 1 on GitHub"
        assert (said in caplog.text) == (written == text) == bool(caplog.text)

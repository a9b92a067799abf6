"""The docs site of `make docs` in a browser, without a network, at desktop and phone width."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from places import ROOT

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_the_site_has_the_four_kinds_of_page_and_those_of_the_clone(site):
    made = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    for name in (
        *("index", "404", "contributing", "changelog", "security", "architecture", "decisions/index"),
        *("reference/columns", "reference/settings", "reference/commands", "reference/python"),
    ):
        assert f"{name}.html" in made
    assert {path.parent.name for path in pages(site)} >= {"tutorials", "how-to", "reference", "explanation"}


def test_no_page_names_an_asset_of_another_host(site):
    assets = re.compile(
        r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>"""
    )
    found = {
        (path.name, tag) for path in site.rglob("*.html") for tag in assets.findall(path.read_text("utf-8"))
    }
    assert not found
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\([\"']?(?:https?:)?//|@import", style) for style in styles)


@needs_chromium
def test_pages_make_no_requests_and_fit_a_phone(site, browser):
    """Wide tables and long lines of code scroll inside themselves. Of the decisions, one is opened."""
    wide = {}
    for path in pages(site):
        if path.match("decisions/000[2-9]*") or path.match("decisions/00[12]*"):
            continue
        browser.open(path, *PHONE)
        width = browser.value("document.scrollingElement.scrollWidth")
        if width > PHONE[0]:
            wide[path.name] = width
    assert browser.requests and {url.split(":", 1)[0] for url in browser.requests} <= {
        "file",
        "data",
        "about",
    }
    assert browser.errors == []
    assert wide == {}


@needs_chromium
def test_the_search_finds_a_setting_without_a_server(site, browser):
    browser.open(site / "index.html", *DESKTOP)
    browser.value("document.querySelector('[data-md-component=search-query]').focus()")
    browser.call("Input.insertText", text="fiq_threshold")
    links = "[...document.querySelectorAll('.md-search-result__link')].map(link => link.getAttribute('href'))"
    deadline = time.monotonic() + 60
    while not (found := browser.value(links)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert any("reference/settings.html" in link for link in found)
    assert browser.errors == []


@needs_chromium
def test_a_wide_table_scrolls_on_a_phone(site, browser):
    browser.open(site / "reference" / "columns.html", *PHONE)
    inner = "document.querySelector('.md-typeset__scrollwrap')"
    assert browser.value(f"{inner}.scrollWidth > {inner}.clientWidth")
    assert browser.value(f"{inner}.clientWidth") <= PHONE[0]


@needs_chromium
def test_the_copy_button_of_a_console_block_takes_the_commands_only(site, browser):
    """It copies neither prompts nor output."""
    folders = [
        path
        for path in pages(site)
        if "go" in path.read_text("utf-8") and 'class="gp"' in path.read_text("utf-8")
    ]
    assert folders
    browser.open(folders[0], *DESKTOP)
    copied = browser.value(
        "(() => { const code = document.querySelector('pre:has(.gp) code');"
        " code.setAttribute('data-md-copying', ''); const text = code.innerText;"
        " code.removeAttribute('data-md-copying'); return text })()"
    )
    shown = browser.value("document.querySelector('pre:has(.gp) code').innerText")
    assert shown.startswith("$ ") and copied.strip() and "$ " not in copied

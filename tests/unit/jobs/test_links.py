"""Broken links of the pages, with file and line."""

import pytest

from jobs.docs_site import links
from jobs.docs_site.markdown import read, slug

UNSEEN = "the site does not show it: link to a page that is in mkdocs.yml, or to a file of another kind"

PAGE = """\
# A page

Text with a [link](other.md), an ![image](picture.png)
and a [second
link](other.md#a-heading-2-go) in one paragraph.

| table | cell |
|---|---|
| row | [up](../README.md) |

```text
[no link](nowhere.md)
```

`[no link](nowhere.md)` and [elsewhere](https://example.org/nowhere.md#x) and [here](#a-page).

- item

    [in an item](../jobs/score.yaml) and <a href="other.md">HTML</a>

[by name][other] and <img src="picture.png">

[other]: other.md
"""


@pytest.fixture
def clone(tmp_path):
    """Pages without a broken link. Returns a function that writes a page and returns the problems."""
    files = {
        "README.md": "# faceq\n\n[docs](docs/page.md#a-page), [folder](docs/decisions), [CI](.ci/run)\n",
        "CONTRIBUTING.md": "# Contributing\n\n[architecture](docs/other.md)\n",
        "docs/page.md": PAGE.replace("../README.md", "../CONTRIBUTING.md#contributing"),
        "docs/other.md": "# Other\n\n## A heading: 2 `go`\n\n<a id='own'></a>[own](#own)\n",
        "docs/decisions/README.md": "# Decisions\n\n[page](../page.md)\n",
        "docs/picture.png": "",
        "jobs/score.yaml": "",
        ".ci/run": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def wrong(name: str, text: str) -> list[str]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        links._names.cache_clear()
        return list(links.problems(tmp_path))

    return wrong


def test_working_links_are_not_reported(clone):
    assert clone("docs/empty.md", "# Nothing\n") == []


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("[x](othr.md)", "othr.md: there is no such file: did you mean other.md?"),
        ("[x](how-to/page.md)", "how-to/page.md: there is no such file: did you mean page.md?"),
        ("[x](Other.md)", "Other.md: there is no such file: did you mean other.md?"),
        ("![x](nothing.png)", "nothing.png: there is no such file"),
        ("<img src='nothing.png'>", "nothing.png: there is no such file"),
        ("[x](other.md#a-heading)", "docs/other.md has no such heading: did you mean #a-heading-2-go?"),
        ("[x](#nowhere)", "#nowhere: docs/broken.md has no such heading"),
        ("[x](/docs/other.md)", "write it relative to this file, and stay inside the clone"),
        ("[x](../../other.md)", "write it relative to this file, and stay inside the clone"),
        ("[x][nobody]", "[x][nobody]: nothing defines it"),
        ("[x](decisions)", f"decisions: {UNSEEN}"),
        ("[x](../README.md)", f"../README.md: {UNSEEN}"),
        ("[x][y]\n\n[y]: nothing.md", "nothing.md: there is no such file"),
    ],
)
def test_a_broken_link_is_named_with_its_file_and_line(clone, link, why):
    (said,) = clone("docs/broken.md", f"# Broken\n\nSome text,\nand `code` before a {link}\n")
    line = 6 if "[y]:" in link else 4
    assert said.startswith(f"docs/broken.md:{line}: broken link: ") and said.endswith(why)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "docs/decisions/0001-x.md"])
def test_pages_outside_of_the_site_and_decisions_are_checked_too(clone, name):
    assert clone(name, "# x\n\n[x](nothing.md)\n") == [
        f"{name}:3: broken link: nothing.md: there is no such file"
    ]


def test_links_have_their_line():
    found = [(link.target, link.line) for link in read(PAGE).links]
    assert found == [
        *(("other.md", 3), ("picture.png", 3), ("other.md#a-heading-2-go", 5), ("../README.md", 9)),
        *(("https://example.org/nowhere.md#x", 15), ("#a-page", 15)),
        *(("../jobs/score.yaml", 19), ("other.md", 19), ("other.md", 23), ("picture.png", 21)),
    ]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Few large files", "few-large-files"),
        ("find_face, serfiq, dbcnn", "find_face-serfiq-dbcnn"),
        ("SER-FIQ: what it measures, and how", "ser-fiq-what-it-measures-and-how"),
        ("Größe & Form", "größe--form"),
    ],
)
def test_anchors_are_made_as_github_makes_them(heading, anchor):
    assert slug(heading) == anchor

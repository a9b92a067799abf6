"""The runner of the pages: which blocks it runs or refuses, and which outputs match."""

import textwrap
import time
from pathlib import Path

import pytest
from documents import PAGES, Outcome, Reader, blocks, difference, matches, problems, steps
from places import ROOT


def page(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    for name in ("folder", "scratch"):
        (tmp_path / name).mkdir()
    return Reader(
        tmp_path / "folder", tmp_path / "scratch", {"make demo": Outcome(0, "218 frames\n", "", "")}
    )


def test_a_page_gives_commands_with_their_outputs_and_scripts_with_theirs():
    text = page("""
        # Title

        ```console
        $ echo a \\
            b
        a b

        $ true
        $ echo c
        ...
        ```

        Words.

        ```shell
        mkdir x
        cd x
        ```

        ```python title="one.py"
        print(1)
        ```

        ```text
        1
        ```

        Words.

        ```text
        not an output
        ```

        ```yaml
        fps: 2
        ```
        """)
    assert problems(text) == []
    assert [(s.line, s.language, s.command, s.expected) for s in steps(blocks(text))] == [
        (4, "console", "echo a \\\n    b", "a b\n"),
        (8, "console", "true", None),
        (9, "console", "echo c", "..."),
        (16, "shell", "mkdir x\ncd x\n", None),
        (21, "python", "print(1)\n", "1\n"),
    ]


def test_blocks_in_lists_and_tabs_lose_the_indentation_of_their_fence():
    text = page("""
        1. First:

           ```python
           for x in (1, 2):
               print(x)
           ```

           ```text
           1
           2
           ```

        === "shell"

            ~~~~shell
            cat <<EOF
            ```
            EOF
            ~~~~
        """)
    assert problems(text) == []
    first, second = steps(blocks(text))
    assert (first.command, first.expected) == ("for x in (1, 2):\n    print(x)\n", "1\n2\n")
    assert second.command == "cat <<EOF\n```\nEOF\n"


def test_a_marked_block_is_not_run_and_has_no_output():
    text = page("""
        <!-- not run: needs a cluster -->
        ```console
        $ ray up cluster.yaml
        ```

        <!-- not run: needs a GPU -->
        ```python
        import cupy
        ```

        ```text
        whatever
        ```
        """)
    assert problems(text) == [] and steps(blocks(text)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```\nfaceq score x\n```\n", "line 1: this block names no language"),
        ("<!-- not run: why -->\n```\nfaceq score x\n```\n", "line 2: this block names no language"),
        ("```bash\nls\n```\n", "line 1: say console or shell, not bash"),
        ("```py\n1\n```\n", "line 1: say python, not py"),
        ("```console\nfaceq score x\n```\n", "line 1: a console block begins with a command"),
        ("```console\n```\n", "line 1: a console block begins with a command"),
        ("\n```shell\nls\n", "line 2: this block has no end"),
        ("<!-- not run: why -->\n\n```shell\nls\n```\n", "line 1: `<!-- not run: REASON -->` belongs"),
        ("<!-- not run: -->\n```shell\nls\n```\n", "line 1: `<!-- not run: REASON -->` belongs"),
        ("<!-- Not run: why -->\n```shell\nls\n```\n", "line 1: `<!-- not run: REASON -->` belongs"),
        ("Do:\n\n    faceq score x --out y\n", "line 3: an indented command is not run"),
        ("Do:\n\n    $ ls\n", "line 3: an indented command is not run"),
        ("```shell\nls\npip install .\n```\n", "line 2: `pip` would change this machine"),
        ("```console\n$ cd x && python3 -m pip install .\n```\n", "line 2: `&& python3 -m pip` would"),
        ("```console\n$ git clone x\n```\n", "line 2: `git` would change this machine"),
        ("```shell\nmake demo\nmake test\n```\n", "line 2: `make` would change this machine"),
    ],
)
def test_a_block_that_is_neither_run_nor_marked_is_a_problem(text, problem):
    (found,) = problems(text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a", "a\n"),
        ("a  b\n", "   a b   \n\n"),
        ("...", ""),
        ("...\nb", "b"),
        ("...\nb", "a\na\nb"),
        ("a\n...", "a"),
        ("a\n...\nb", "a\nb"),
        ("a\n...\nb\n...\n", "a\n1\n\n2\nb\nb\n"),
        ("a ... c", "a b c"),
        ("a ... c", "a b\nb c"),
        (".../x.tar ... 0.61", "/tmp/x.tar  a.jpg  0.61"),
        ("... rows\n... rows", "1 rows\n2 rows"),
        ("score 66.384 and -0.05", "score 66.383 and -0.04"),
    ],
)
def test_a_matching_output_is_accepted(expected, printed):
    assert matches(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a", "b"),
        ("a", "a\nb"),
        ("a\nb", "a"),
        ("a\nb", "a\n\nb"),
        ("0.61", "0.63"),
        ("0.1.0", "0.1.1"),
        ("12 rows", "13 rows"),
        ("a ... 0.61", "a b 0.610"),
        ("...\nb", "ab"),
        ("a\n...", "ab\n"),
        ("a\n...\nb", "a\nb\nc"),
        ("a...a", "a"),
        ("1.0", "110"),
    ],
)
def test_a_wrong_output_is_refused(expected, printed):
    assert not matches(expected, printed)


def test_many_wildcards_cost_no_time():
    start = time.monotonic()
    assert not matches("... 1 " * 12 + "x", "0 1 " * 3000)
    assert time.monotonic() - start < 2


def test_a_difference_shows_only_what_differs():
    expected = ".../a.tar 0.5\n.../b.tar 0.6\n...\nc\n...\n"
    assert difference(expected, "/x/a.tar 0.5\n/x/b.tar 0.8\n1\n2\nc\n").splitlines()[2:] == [
        "@@ -1,4 +1,5 @@",
        " /x/a.tar 0.5",
        "-.../b.tar 0.6",
        "-...",
        "+/x/b.tar 0.8",
        "+1",
        "+2",
        " c",
    ]
    assert difference("a\n...\nb\n...\nd", "a\n1\n2\nb\nc").splitlines()[3:] == [
        " 2",
        " b",
        "-...",
        "-d",
        "+c",
    ]


def test_a_page_is_run_as_one_session(reader, tmp_path):
    text = page("""
        ```shell
        mkdir x
        cd x
        NAME="a b"
        export OTHER=c
        ```

        ```console
        $ echo $NAME $OTHER; basename "$PWD"
        a b c
        x
        $ echo reason >&2; echo result
        reason
        result
        $ echo reason >&2; echo result
        result
        $ make demo
        218 frames
        $ sleep 600 &
        ```

        ```python
        import os
        import faceq
        print(os.getcwd(), os.environ["NAME"], faceq.__file__, "RAY_ADDRESS" in os.environ)
        ```

        ```text
        .../x a b ... False
        ```
        """)
    assert reader.read("page.md", text) == []
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["x"]
    assert reader.read("page.md", "```console\n$ basename $PWD; echo $OTHER.\nfolder\n.\n```\n") == []


def test_a_wrong_output_is_reported_with_its_line_and_a_failed_command_ends_the_page(reader):
    text = page("""
        ```console
        $ printf '1 row\\n2 rows\\n'
        1 row
        3 rows
        $ faceq query nowhere
        $ echo "never said"
        nothing
        ```
        """)
    output, failure = reader.read("page.md", text)
    assert output.splitlines()[0] == r"page.md:2: printf '1 row\n2 rows\n'"
    assert "-3 rows\n+2 rows" in output
    assert failure.startswith("page.md:5: faceq query nowhere\nexit status 2 (")
    assert "there is no faceq table here" in failure


@pytest.mark.parametrize(
    ("language", "code"),
    [("shell", "false\ntrue"), ("console", "$ exit 1"), ("python", "raise SystemExit(1)")],
)
def test_a_command_that_fails_fails_the_page(reader, language, code):
    (failure,) = reader.read("page.md", f"```{language}\n{code}\n```\n")
    assert failure.startswith("page.md:2: ") and "exit status 1" in failure


def test_a_page_with_a_problem_is_not_run(reader, tmp_path):
    text = "```shell\ntouch ran\n```\n\n```\nls\n```\n"
    (problem,) = reader.read("page.md", text)
    assert problem.startswith("page.md: line 5: ") and not (tmp_path / "folder" / "ran").exists()


def test_all_pages_are_known_and_make_demo_is_what_the_drills_run():
    assert "README.md" in PAGES and "docs/architecture.md" in PAGES
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(BIN)/python -m jobs.demo demo\n" in makefile

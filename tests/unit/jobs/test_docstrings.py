"""Public names without a description, with file and line."""

import pytest

from jobs.docs_site import docstrings

MODULE = '''\
"""A package."""

from pydantic import BaseModel, Field

__all__ = ["Settings", "Thing", "work"]


def work(first: int, second: int, **more: int) -> int:
    """Does it.

    Args:
        first: one.
        second: two.
        more: others.

    Returns:
        Their sum.
    """
    return first + second


class Thing:
    """A thing.

    Args:
        size: of it.

    Attributes:
        weight: of it.
    """

    weight: float

    def __init__(self, size: int):
        self._size = size

    @property
    def colour(self) -> str:
        """What it looks like."""
        return "red"

    def _private(self, anything: int) -> int:
        return anything


class Settings(BaseModel):
    """Settings."""

    one: int = Field(1, description="The first.")
'''

PAGE = "::: made_up.Settings\n\n::: made_up.Thing\n\n::: made_up.work\n"


@pytest.fixture
def problems(tmp_path):
    """Returns a function that replaces text in the only module of a package and returns the problems."""

    def found(old: str = "", new: str = "", page: str = PAGE) -> list[str]:
        assert old in MODULE
        (tmp_path / "made_up").mkdir()
        (tmp_path / "made_up" / "__init__.py").write_text(MODULE.replace(old, new), encoding="utf-8")
        lines = docstrings.problems(docstrings.package(tmp_path, "made_up"), page)
        return [line.removeprefix(f"{tmp_path}/") for line in lines]

    return found


def test_a_complete_package_has_no_problems(problems):
    assert problems() == []


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('    """Settings."""\n', "", "class Settings", "public name: made_up.Settings has no docstring"),
        (
            '        """What it looks like."""\n',
            "",
            "    def colour",
            "public name: made_up.Thing.colour has no docstring",
        ),
        (
            "        weight: of it.\n",
            "        height: of it.\n",
            "    weight: float",
            "public name: made_up.Thing.weight has no docstring",
        ),
        (
            'Field(1, description="The first.")',
            "Field(1)",
            "    one: int",
            "public name: made_up.Settings.one has no docstring",
        ),
        ("        second: two.\n", "", "def work", "parameter: second of made_up.work"),
        (
            "        size: of it.\n",
            "        side: of it.\n",
            "    def __init__",
            "parameter: size of made_up.Thing.__init__",
        ),
        (
            "    Returns:\n        Their sum.\n",
            "",
            "def work",
            "result: made_up.work needs a section `Returns:`",
        ),
    ],
)
def test_a_missing_description_is_named_with_its_file_and_line(problems, old, new, line, said):
    lines = MODULE.replace(old, new).split("\n")
    (number,) = (number for number, text in enumerate(lines, 1) if text.startswith(line))
    assert problems(old, new) == [f"made_up/__init__.py:{number}: undocumented {said}"]


def test_a_public_name_that_the_page_does_not_show_is_named(problems):
    (said,) = problems(page=PAGE.replace("::: made_up.Thing\n", ""))
    assert said == "docs/reference/python.md:1: undocumented public name: add `::: made_up.Thing`"


def test_every_public_name_of_faceq_has_a_description():
    assert list(docstrings.problems()) == []

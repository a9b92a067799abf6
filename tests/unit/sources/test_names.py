"""Unique names for the frames of one source, with little memory."""

import subprocess
import sys
from collections import Counter

import pytest

from faceq.sources import names
from faceq.sources.names import Names


def by_dictionary(given: list[str]) -> list[str]:
    """The expected unique names, from an implementation that keeps all names."""
    seen: Counter[str] = Counter()

    def unique(name: str) -> str:
        seen[name] += 1
        return name if seen[name] == 1 else unique(f"{name}#{seen[name]}")

    return [unique(name) for name in given]


@pytest.mark.parametrize(
    "given",
    [
        ["a", "b", "a", "a"],
        ["a", "a#2", "a", "a#2", "a"],
        ["", "", "\\xff", "ü" * 5000, "ü" * 5000],
        [f"{i % 7000}" for i in range(30_000)],
        [f"{i}" for i in range(20_000)] + ["19999", "0", "0#2"],
    ],
)
def test_names_are_numbered_as_if_all_were_kept(given):
    kept = Names("/in/x.parquet")
    assert [kept.unique(name) for name in given] == by_dictionary(given)


def test_names_with_the_same_id_both_have_a_row(monkeypatch):
    monkeypatch.setattr(names, "frame_id", lambda source, name, index: len(name))
    kept = Names("x")
    assert [kept.unique(name) for name in ("aa", "bb", "cccc")] == ["aa", "bb#2", "cccc#2"]


def test_many_names_take_little_memory():
    code = (
        "import resource\nfrom faceq.sources.names import Names\n"
        "names = Names('x')\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for i in range(100_000): names.unique(f'id-{i:012d}')\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8_000  # KB; a dict takes 16,000

"""faceq suggests the same filter everywhere."""

import re

import pytest
from places import ROOT

from faceq.cli import main
from faceq.table.recommended import FILTER

_FILTERS = re.compile(r"serfiq >= [\d.]+ and dbcnn >= \d+")


def test_the_source_suggests_no_other_filter():
    assert FILTER == "serfiq >= 0.6 and dbcnn >= 55"
    for path in [*(ROOT / "faceq").rglob("*.py"), *(ROOT / "faceq").rglob("*.html")]:
        assert set(_FILTERS.findall(path.read_text(encoding="utf-8"))) <= {FILTER}, path


@pytest.mark.parametrize("command", [[], ["query"]])
def test_help_suggests_the_filter(command, capsys):
    with pytest.raises(SystemExit):
        main.main([*command, "--help"])
    assert set(_FILTERS.findall(capsys.readouterr().out)) == {FILTER}

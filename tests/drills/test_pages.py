"""README and every page of docs/, run as written, with their output."""

import pytest
from documents import PAGES, Reader
from places import ROOT


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(page, after_make_demo, tmp_path):
    folder, demo = after_make_demo
    reader = Reader(folder, tmp_path, {"make demo": demo})
    wrong = reader.read(page, (ROOT / page).read_text(encoding="utf-8"))
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)

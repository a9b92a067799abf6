"""Whether a job may continue a table of another version or with other settings."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from faceq import config
from faceq.errors import UsageError
from faceq.faces.method import FACE_FINDING
from faceq.presets import PRESETS
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table import comparable
from faceq.table.schema import STATUSES, record_of
from faceq.table.store import Table

TABLES = Path(__file__).parent / "tables"
"""Files of version 0.1.0: a table of three images with `--fiq-threshold 0.75`, and run records by preset."""

OLD = json.loads((TABLES / "records-0.1.0.json").read_text())


def mine(**values) -> dict:
    settings = config.build({"input": "in", "out": "out", **values})
    return comparison_record(settings, choose(settings))


@pytest.fixture
def old_table() -> Table:
    return Table(str(TABLES / "0.1.0"), S3Settings())


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_missing_in_a_0_1_0_record_have_their_values_of_that_time(preset):
    """Except `face_finding`, because of which these tables are refused."""
    more = {"quality_region": "frame"} if preset == "cafi" else {}
    now = mine(preset=preset, accept_licence=True, **more)
    comparable.check("table", {**OLD[preset], "face_finding": FACE_FINDING}, now)
    with pytest.raises(UsageError, match=r"\(quality_scale was null, is now 100\)"):
        comparable.check(
            "table", {**OLD[preset], "face_finding": FACE_FINDING}, {**now, "quality_scale": 100}
        )


@pytest.mark.parametrize("key", ["fps", "every"])
def test_a_setting_of_a_group_is_named_as_in_the_settings(key):
    now = mine(video={key: 5})
    with pytest.raises(UsageError, match=rf"\(video\.{key} was null, is now 5(\.0)?\)"):
        comparable.check("table", {**now, f"video_{key}": None}, now)


def test_each_setting_added_since_has_its_value_of_that_time():
    added = mine().keys() - OLD["embedded"].keys()
    assert added == comparable.EARLIER_DEFAULTS.keys()


def test_a_table_of_0_1_0_is_refused_by_name_and_can_be_read(old_table):
    with pytest.raises(UsageError, match=r"a table of an older faceq, .*face_finding was 1, is now 3"):
        old_table.check(mine())
    old_table.check(None)  # --overwrite
    rows = old_table.rows(["source", "status", "serfiq", "face_confidence"]).to_pylist()
    assert {row["source"]: row["status"] for row in rows} == {
        "/frames/face.jpg": "scored",
        "/frames/blurred.jpg": "below_fiq",
        "/frames/broken.jpg": "unreadable",
    }
    assert {row["face_confidence"] for row in rows} == {None}


def test_its_files_name_the_same_settings_as_its_record(old_table):
    (run,) = old_table.runs()
    footers = [record_of(pq.read_schema(path)) for path in old_table.row_files()]
    assert len(footers) == 3 < len(STATUSES)
    now = mine()
    for named in (run, *footers):
        comparable.check("table", {**named, "face_finding": FACE_FINDING}, now)
        assert named["config"]["fiq_threshold"] == 0.75


def test_licence_texts_may_differ_and_model_files_may_not():
    now = mine()
    sface = now["models"]["sface"]
    for changed, refused in (({"licence": "another text"}, False), ({"sha256": "0" * 64}, True)):
        there = {**now, "models": {**now["models"], "sface": {**sface, **changed}}}
        if refused:
            with pytest.raises(UsageError, match=r"\(models\.sface\.sha256 was \"0+"):
                comparable.check("table", there, now)
        else:
            comparable.check("table", there, now)


def test_the_threshold_may_differ_even_if_an_older_record_names_it():
    now = mine(fiq_threshold=0.2)
    comparable.check("table", {**mine(fiq_threshold=0.7), "fiq_threshold": 0.7}, now)
    assert "fiq_threshold" not in now


def test_a_record_that_names_nothing_is_refused():
    with pytest.raises(UsageError, match="face_finding was 1"):
        comparable.check("table", {}, mine())

"""The models that a job's settings choose, and the record that a table keeps for comparison."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from faceq import config
from faceq.cli import main
from faceq.models import zoo
from faceq.stages.chosen_models import choose, comparison_record

RECORDS = json.loads((Path(__file__).parent / "records.json").read_text(encoding="utf-8"))
"""Records from tables, each with the settings that gave it."""


@pytest.mark.parametrize("case", RECORDS)
def test_the_record_is_byte_for_byte_the_one_that_tables_hold(case):
    settings = config.build({"input": "in", "out": "out", **RECORDS[case]["settings"]})
    assert json.dumps(comparison_record(settings, choose(settings))) == RECORDS[case]["record"]


def test_the_record_holds_the_whole_digest_of_a_file_of_which_the_zoo_knows_the_first_digits(
    model_dir, tmp_path, monkeypatch
):
    content = b"weights" * 1000
    (tmp_path / "probe.bin").write_bytes(content)
    whole = hashlib.sha256(content).hexdigest()
    entry = zoo.Model("probe", "", "probe.bin", whole[:8], None, "none", (f"file://{tmp_path}/probe.bin",))
    monkeypatch.setitem(zoo.MODELS, "probe", entry)
    settings = config.build({"models": {"quality": "probe"}})
    models = choose(settings)
    assert not model_dir.exists()  # nothing is downloaded before it is needed
    assert comparison_record(settings, models)["models"]["probe"]["sha256"] == whole
    assert models.path("quality") == model_dir / "probe.bin"


def test_models_that_replace_the_presets_are_known_by_their_roles():
    models = choose(config.build({"preset": "insightface", "models": {"detector": "yunet"}}))
    assert models.replaced == {"detector"}
    assert [model.name for model in models.known] == ["yunet", "arcface-r50", "landmarks-106", "dbcnn-koniq"]


def test_the_model_that_finds_shots_is_on_record():
    """So that shots that two methods have found do not get into one table."""
    settings = config.build({"video": {"shots": "transnetv2"}})
    models = choose(settings)
    assert models.names[-1] == "transnetv2" and models.quality_scale is None
    assert "transnetv2" in comparison_record(settings, models)["models"]
    usual = config.build({})
    assert "transnetv2" not in comparison_record(usual, choose(usual))["models"]


def test_a_dropout_rate_from_the_settings_counts_as_unmeasured():
    zoos, own = (choose(config.build(values)).recogniser for values in ({}, {"dropout": 0.3}))
    assert zoos == zoo.recogniser("sface") and zoos.closed_form_holds
    assert own == dataclasses.replace(zoos, dropout=0.3, closed_form_holds=False)


def test_the_calibration_is_that_of_the_settings_else_the_recognisers():
    known = zoo.recogniser("sface").calibration
    chosen = choose(config.build({})).calibration
    assert (chosen.slope, chosen.threshold) == (known.slope, known.threshold)
    own = {"slope": 80, "threshold": 0.9}
    assert choose(config.build({"calibration": own})).calibration.model_dump() == own


def test_both_published_checkpoints_have_their_own_scale():
    chosen = {"preset": "cafi", "models": {"quality": "dbcnn-koniq-254e8241"}}
    assert choose(config.build({"preset": "cafi"})).quality_scale == 1
    assert choose(config.build(chosen)).quality_scale == 100
    assert choose(config.build({**chosen, "quality_scale": 1})).quality_scale == 1


def test_a_model_that_is_no_recogniser_is_refused_by_name(tmp_path, capsys):
    command = ["score", str(tmp_path), "--out", str(tmp_path / "t"), "--recogniser", "facemesh"]
    assert main.main(command) == 1
    assert "facemesh is not a recogniser" in capsys.readouterr().err

"""Settings on the command line: `--set`, `faceq config`, and the order of precedence."""

import argparse

import pytest
import yaml

from faceq import config
from faceq.cli import main
from faceq.cli.settings import add_config_arguments, all_settings, as_yaml, brief, load_settings
from faceq.config import Config


def load(*arguments: str, **overrides) -> Config:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    return load_settings(parser.parse_args(arguments), overrides)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("dbcnn.batch_size=64", "dbcnn.batch_size", 64),
        ("det_threshold=0.25", "det_threshold", 0.25),
        ("det_threshold=1e-2", "det_threshold", 0.01),  # a string in YAML 1.1, but users mean a number
        ("embeddings=true", "embeddings", True),
        ("input=s3://bucket/in", "input", ("s3://bucket/in",)),
        ("model_mirrors=[/a, s3://b/c]", "model_mirrors", ("/a", "s3://b/c")),
        ("out=a=b", "out", "a=b"),
        ("models.recogniser=sface", "models.recogniser", "sface"),
        ("calibration={slope: 80, threshold: 0.9}", "calibration.slope", 80),
    ],
)
def test_any_setting_can_be_given(text, key, value):
    found = load("--set", text)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_every_setting_has_a_key_and_a_description():
    settings = dict(all_settings())
    assert {"dbcnn.mini_batch", "s3.region", "limits.frame_bytes", "calibration.slope"} < settings.keys()
    for key, field in settings.items():
        assert field.description and field.description.endswith((".", "…")), key
        assert brief(key)


def test_more_specific_settings_override_others(tmp_path):
    """The order: defaults, preset, file, --set, flags."""
    path = tmp_path / "job.yaml"
    path.write_text("preset: cafi\nmin_face: 50\nserfiq_passes: 20\nlimit: 5\n")
    found = load("--config", str(path), "--set", "min_face=60", "--set", "limit=6", limit=7)
    assert found.quality_region == "frame_jpeg"  # from the preset
    assert (found.serfiq_passes, found.min_face, found.limit) == (20, 60, 7)


def test_the_last_of_two_wins():
    found = load(
        "--set", "video.fps=2", "--set", "min_face=50", "--set", "video={every: 3}", "--set", "min_face=60"
    )
    assert (found.min_face, found.video) == (60, config.Video(every=3))


def test_one_key_of_a_section_leaves_the_others_of_the_file_and_of_the_preset(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("dbcnn: { min_size: 2, batch_size: 16 }\n")
    found = load("--config", str(path), "--set", "dbcnn.batch_size=64").dbcnn
    assert (found.min_size, found.batch_size) == (2, 64)
    cafi = load("--set", "preset=cafi", "--set", "calibration.slope=90").calibration
    assert cafi == config.Calibration(slope=90, threshold=0.88)


def test_null_removes_a_value(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("video: { every: 3 }\nlimit: 5\n")
    found = load(
        "--config", str(path), "--set", "video.every=null", "--set", "video.fps=2", "--set", "limit="
    )
    assert found.video == config.Video(fps=2) and found.limit is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dbcnn.batch_siz=64", "unknown key 'dbcnn.batch_siz': did you mean 'dbcnn.batch_size'?"),
        ("fiq_treshold=0", "unknown key 'fiq_treshold': did you mean 'fiq_threshold'?"),
        ("mini_batch=64", "did you mean 'find_face.mini_batch' or 'serfiq.mini_batch' or"),
        ("zzz=1", "unknown key 'zzz': `faceq config` lists all settings"),
        ("=1", "unknown key ''"),
        ("min_face", "expected KEY=VALUE, such as dbcnn.batch_size=64, got 'min_face'"),
        ("min_face=[", "min_face: the value is not valid YAML"),
        ("min_face=big", "--set min_face: input should be a valid integer"),
        ("dbcnn=5", "--set dbcnn: input should be a valid dictionary"),
        ("limits.jpeg_scans=null", "--set limits.jpeg_scans: input should be a valid integer"),
        ("dbcnn.device=gpu", "--set dbcnn.device: input should be 'auto', 'cpu' or 'cuda'"),
        ("model_mirrors=http://me:hidden@host/", None),
        ("model_mirror=http://me:hidden@host/", "did you mean 'model_mirrors'?"),
    ],
)
def test_a_wrong_assignment_is_a_clear_usage_error(capsys, text, message):
    assert _exit_status("config", "--set", text) == (2 if message else 0)
    said = capsys.readouterr()
    assert (message or "") in said.err.splitlines()[-1] if message else not said.err
    assert "hidden" not in said.out + said.err and "Traceback" not in said.err


def test_a_wrong_file_is_not_blamed_on_an_assignment(tmp_path, capsys):
    path = tmp_path / "job.yaml"
    path.write_text("min_face: big\n")
    assert _exit_status("config", "--config", str(path), "--set", "dbcnn.batch_size=0") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"faceq: {path}: min_face: ") and "; --set dbcnn.batch_size: " in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preset", "cafi", "--set", "calibration.slope=90"],
        ["--set", "dbcnn={device: cuda, max_size: 3}", "--set", "input=[a, 'ü: #x', s3://b/c]"],
        [
            "--set",
            "serfiq.batch_size=128",
            "--set",
            "video.fps=0.1",
            "--set",
            "s3.endpoint_url=http://h:9000",
        ],
    ],
)
def test_the_output_of_config_is_a_valid_settings_file(tmp_path, capsys, arguments):
    assert main.main(["config", *arguments]) == 0
    path = tmp_path / "job.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main.main(["config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")
    read = config.load(str(path), {})
    assert read == load(*_preset_as_set(arguments))


def test_values_that_depend_on_the_machine_stay_unset(tmp_path):
    """Batches are larger on a GPU, unless the user sets their size."""
    given = load("--set", "serfiq.batch_size=32")
    values = yaml.safe_load(as_yaml(given))
    assert values["serfiq"]["batch_size"] == 32
    assert (
        not {"batch_size", "mini_batch"} & values["dbcnn"].keys() and "batch_size" not in values["find_face"]
    )
    again = config.build(values)
    assert [pool.model_fields_set & {"batch_size"} for pool in (again.serfiq, again.dbcnn)] == [
        {"batch_size"},
        set(),
    ]


@pytest.mark.parametrize(
    ("said", "batch"),
    [
        (["num_gpus=0.2"], 128),
        (["device=cuda", "mini_batch=8"], 32),
        (["num_gpus=0.2", "batch_size=50"], 50),
        (["num_gpus=0.2", "device=cpu"], 32),
        ([], 32),
    ],
)
def test_a_batch_of_find_face_on_a_gpu_is_four_mini_batches(said, batch):
    assert (
        load(*(word for each in said for word in ("--set", f"find_face.{each}"))).find_face.batch_size
        == batch
    )


def test_other_commands_take_settings_too(capsys):
    for command in (["query", "t"], ["report", "t"], ["compact", "t", "--out", "u"], ["inspect", "x.jpg"],
                    ["models", "pull"], ["evaluate", "calibrate", "t"], ["score", "x"]):  # fmt: skip
        assert _exit_status(*command, "--set", "s3.regin=x") == 2
        assert "unknown key 's3.regin': did you mean 's3.region'?" in capsys.readouterr().err


def _preset_as_set(arguments: list[str]) -> list[str]:
    if "--preset" not in arguments:
        return arguments
    place = arguments.index("--preset")
    return [*arguments[:place], "--set", f"preset={arguments[place + 1]}", *arguments[place + 2 :]]


def _exit_status(*arguments: str) -> int:
    try:
        return main.main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)

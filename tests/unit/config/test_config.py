"""Settings from YAML, the command line and Python."""

import pytest
from places import ROOT

from faceq import config
from faceq.errors import UsageError
from faceq.stage_resources import Pool
from faceq.stages.placement import on_gpus


def test_the_command_line_overrides_the_file(tmp_path):
    (tmp_path / "job.yaml").write_text("fiq_threshold: 0.3\nmin_face: 64\ninput: s3://b/shards\n")
    loaded = config.load(str(tmp_path / "job.yaml"), {"fiq_threshold": 0.0, "out": "/t", "limit": None})
    assert (loaded.fiq_threshold, loaded.min_face, loaded.out) == (0.0, 64, "/t")
    assert loaded.input == ("s3://b/shards",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fiq_treshold: 1", "unknown key 'fiq_treshold': did you mean 'fiq_threshold'?"),
        ("dbcnn: {num_gpu: 1}", "unknown key 'dbcnn.num_gpu': did you mean 'num_gpus'?"),
        ("calibration: {slope: 1, threshold: 0.5, treshold: 1}", "unknown key 'calibration.treshold'"),
        ("preset: embeded", "unknown preset 'embeded': choose from embedded"),
        ("fiq_threshold: 1.5", "fiq_threshold: input should be less than or equal to 1 (got 1.5)"),
        ("serfiq: {min_size: 3, max_size: 1}", "max_size 1 is less than min_size 3"),
        ("main: best", "job.yaml: main: best chooses among all faces: set faces: all, too"),
        ("min_face: big", "min_face: input should be a valid integer"),
        ("- a\n- b", "expected `key: value` lines, got list"),
        ("a: [", "expected"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        config.load(str(path), {})
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        config.load(str(tmp_path / "none.yaml"), {})


def test_the_device_follows_the_resources():
    assert Pool(num_gpus=0.25).runs_on == "cuda"
    assert Pool().runs_on == "cpu"
    assert Pool(num_gpus=0.25, device="cpu").runs_on == "cpu"
    asked = Pool(device="cuda")
    assert (asked.runs_on, asked.num_gpus) == ("cuda", 0.5)


def test_an_available_gpu_is_shared_by_the_pools_that_may_use_it():
    chosen = on_gpus(config.build({"serfiq": {"num_gpus": 0.25}, "dbcnn": {"device": "cpu"}}), 1)
    assert (chosen.serfiq.num_gpus, chosen.dbcnn.num_gpus) == (0.25, 0)
    both = on_gpus(config.build({}), 1)
    assert (both.serfiq.num_gpus, both.dbcnn.num_gpus) == (0.5, 0.5)
    assert both.dbcnn.runs_on == "cuda"


@pytest.mark.parametrize(
    ("given", "mini_batch", "batch_size"),
    [({}, 64, 256), ({"mini_batch": 16}, 16, 256), ({"batch_size": 32}, 32, 32), ({"mini_batch": 8}, 8, 256)],
)
def test_a_pool_with_a_gpu_takes_larger_batches_unless_they_are_set(given, mini_batch, batch_size):
    plain = config.build({"dbcnn": given})
    pool = on_gpus(plain, 1).dbcnn
    assert (pool.mini_batch, pool.batch_size) == (mini_batch, batch_size)
    assert on_gpus(plain, 0) == plain and plain.serfiq.mini_batch == 4


def test_the_example_job_is_valid():
    example = ROOT / "jobs" / "score.yaml"
    job = config.load(str(example), {})
    assert job.out is not None
    assert all(pool.batch_size == 4 * pool.mini_batch for pool in (job.serfiq, job.dbcnn))


def test_models_of_the_command_line_are_merged_with_those_of_the_file(tmp_path):
    (tmp_path / "job.yaml").write_text("models: { recogniser: sface, detector: scrfd-10g }\n")
    chosen = config.load(str(tmp_path / "job.yaml"), {"models": {"detector": "yunet"}}).models
    assert (chosen.recogniser, chosen.detector, chosen.quality) == ("sface", "yunet", None)


def test_the_sampling_of_the_command_line_replaces_that_of_the_file(tmp_path):
    (tmp_path / "job.yaml").write_text("video: { every: 10 }\n")
    assert config.load(str(tmp_path / "job.yaml"), {"video": {"fps": 2}}).video == config.Video(fps=2)
    assert config.load(str(tmp_path / "job.yaml"), {"video": None}).video == config.Video(every=10)

"""The user's own models in place of a preset's, set from Python, the command line and YAML; and invalid
files."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from model_files import (
    arcface,
    blind_to_the_dark,
    dbcnn,
    dbcnn_state,
    detector,
    heavy_tailed,
    landmarks_106,
    node,
)
from onnx import helper
from safetensors.torch import load_file, save_file

import faceq
from faceq import config
from faceq.cli import main
from faceq.errors import UsageError
from faceq.faces import geometry
from faceq.fiq.distances import GAP, DropoutDistances
from faceq.fiq.recogniser import Backbone
from faceq.fiq.serfiq import ClosedForm
from faceq.iqa import checkpoint
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS
from faceq.models import zoo
from faceq.models.fetch import fetch
from faceq.runtime.onnx_runtime import ModelFileError
from faceq.stages import scores
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table.store import Table
from jobs import demo

ALONE = "dbcnn: { mini_batch: 1 }\n"
"""Mini-batches of one for single images: VGG-16 takes a second for each item of a mini-batch."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A file for each role. None of them is a model of the preset."""
    folder = tmp_path_factory.mktemp("own")
    yunet = onnx.load(str(fetch("yunet")))
    yunet.doc_string = "another file, the same network"
    onnx.save(yunet, str(folder / "detector.onnx"))
    return {
        "detector": folder / "detector.onnx",
        "recogniser": arcface(folder / "recogniser.onnx"),
        "landmarks": landmarks_106(folder / "landmarks.onnx"),
        "quality": dbcnn(folder / "quality.pth"),
    }


def scored(image, **chosen) -> dict:
    return faceq.score_images([image], fiq_threshold=0, dbcnn={"mini_batch": 1}, **chosen).to_pylist()[0]


@pytest.mark.parametrize(
    ("role", "moved"),
    [
        ("detector", set()),
        ("recogniser", {"serfiq_raw", "serfiq", "embedding_norm"}),
        ("landmarks", {"landmarks", "mask_coverage", "dbcnn", "serfiq_raw", "yaw"}),
        ("quality", {"dbcnn"}),
    ],
)
def test_each_model_can_be_swapped_by_file(files, astronaut, role, moved):
    usual = scored(astronaut)
    rate = {"dropout": 0.4} if role == "recogniser" else {}
    other = scored(astronaut, models={role: str(files[role])}, **rate)
    assert other["status"] == "scored"
    changed = {name for name in other if other[name] != usual[name]} - {"run_id"}
    assert moved <= changed
    if role in ("detector", "recogniser", "quality"):
        assert changed == moved


def test_all_of_them_from_yaml_and_from_the_command_line(files, photos, tmp_path, capsys):
    """Uses `faceq inspect`, which chooses its models like `faceq score`."""
    lines = "".join(f"  {role}: {path}\n" for role, path in files.items())
    (tmp_path / "job.yaml").write_text(f"{ALONE}fiq_threshold: 0\ndropout: 0.3\nmodels:\n{lines}")
    (tmp_path / "alone.yaml").write_text(f"{ALONE}fiq_threshold: 0\n")
    flags = [word for role, path in files.items() for word in (f"--{role}", str(path))]
    picture = str(photos / "t1.jpg")
    rows = []
    from_yaml = ["--config", str(tmp_path / "job.yaml")]
    from_flags = ["--config", str(tmp_path / "alone.yaml"), *flags, "--dropout", "0.3"]
    for said in (from_yaml, from_flags):
        assert main.main(["inspect", picture, "--json", *said]) == 0
        rows.append(json.loads(capsys.readouterr().out))
        assert rows[-1]["status"] == "scored"
    one, other = ({name: row[name] for name in row if name != "run_id"} for row in rows)
    assert one == other


def record(values: dict) -> dict:
    settings = config.build(values)
    return comparison_record(settings, choose(settings))


def test_the_same_file_elsewhere_is_the_same_model(files, tmp_path):
    moved = shutil.copy(files["recogniser"], tmp_path / files["recogniser"].name)
    one, other = (
        record({"models": {"recogniser": str(path)}, "dropout": 0.5}) for path in (files["recogniser"], moved)
    )
    assert one == other


def test_a_model_of_the_zoo_replaces_another_by_name():
    chosen = config.build({"preset": "insightface", "models": {"detector": "yunet"}}).chosen
    assert (chosen.detector, chosen.recogniser) == ("yunet", "arcface-r50")


def test_arcface_is_fed_as_insightface_feeds_it(files, astronaut):
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX  # noqa: PLC0415 - a second to import

    faces = np.stack([astronaut[100:212, 200:312], astronaut[50:162, 150:262]])
    wanted = ArcFaceONNX(str(files["recogniser"])).get_feat([face[..., ::-1] for face in faces])
    own = Backbone(files["recogniser"], dropout=0.5)
    _, found = ClosedForm(own.head)(own(faces))
    assert np.allclose(found, wanted, atol=1e-4)


def no_such_file(folder):
    return folder / "none.onnx"


def html(folder):
    (folder / "page.onnx").write_bytes(b"<html>404 Not Found</html>")
    return folder / "page.onnx"


def cut_off(folder):
    whole = fetch("yunet").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.onnx"


def a_recogniser(folder):
    return arcface(folder / "r.onnx")


def sixty_eight(folder):
    return landmarks_106(folder / "l.onnx", numbers=136)


def other_size(folder):
    return arcface(folder / "large.onnx", side=224)


def not_linear(folder):
    return arcface(folder / "tanh.onnx", tail=[node("Tanh", ["norm"], ["683"])])


def no_tflite(folder):
    (folder / "mesh.tflite").write_bytes(b"TFL3" + bytes(200))
    return folder / "mesh.tflite"


def other_network(folder):
    save_file({"conv.weight": torch.zeros(3)}, folder / "other.safetensors")
    return folder / "other.safetensors"


def wide_head(folder):
    torch.save({**dbcnn_state(), "fc.bias": torch.zeros(2)}, folder / "wide.pth")
    return folder / "wide.pth"


def narrow_lite(folder):
    state = load_file(DBCNN_LITE_WEIGHTS)
    state["head.weight"] = state["head.weight"][:, :10].contiguous()
    save_file(state, folder / "narrow.safetensors")
    return folder / "narrow.safetensors"


def of_a_hundred(folder):
    return dbcnn(folder / "hundred.pth", best=100)


def of_tid2013(folder):
    return dbcnn(folder / "nine.pth", best=9)


def runs_code(folder):
    torch.save({"params": print}, folder / "code.pth")
    return folder / "code.pth"


def two_inputs(folder):
    path = arcface(folder / "two.onnx")
    model = onnx.load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("other", 1, [1, 3, 112, 112]))
    model.graph.node.append(node("Identity", ["other"], ["unused"]))
    onnx.save(model, str(path))
    return path


WRONG = [
    ("detector", no_such_file, "neither a file nor the name of a model: choose from .*yunet"),
    ("recogniser", lambda folder: folder, "is a folder: give the path of the model file"),
    ("detector", html, "is not an ONNX file"),
    ("detector", cut_off, "is not an ONNX file"),
    ("detector", a_recogniser, r"is not a supported face detector: .*9 or 15, this model has 1"),
    ("detector", lambda folder: detector(folder / "d.onnx", 6), r"faces but no landmarks \(6 outputs\)"),
    ("detector", lambda folder: detector(folder / "d.onnx", 9), "its outputs are not those of SCRFD"),
    (
        "detector",
        lambda folder: detector(folder / "d.onnx", 9, 1),
        r"has inputs \[\[1, 1, 64, 64\]\]: a detector",
    ),
    ("recogniser", a_recogniser, "no Dropout node .*set `dropout`"),
    ("recogniser", other_size, r"fails on two faces of shape \(3, 112, 112\)"),
    ("recogniser", not_linear, "the last layer is not linear: it is followed by Tanh"),
    ("recogniser", two_inputs, "expected one input of images .*found input.1, other"),
    ("landmarks", sixty_eight, r"106 landmarks has one output \(N, 212\)"),
    ("landmarks", lambda folder: landmarks_106(folder / "l.onnx", side=128), r"one input \(N, 3, 192"),
    ("landmarks", no_tflite, "is not a TFLite file: FaceMesh is a TFLite file with 468 landmarks"),
    ("quality", html, "is not a checkpoint of plain tensors"),
    ("quality", runs_code, "is not a checkpoint of plain tensors"),
    ("quality", other_network, "is neither DB-CNN-Lite, .* this file has conv.weight"),
    ("quality", wide_head, r"wrong shapes: fc.bias \(2,\), expected \(1,\)"),
    ("quality", narrow_lite, r"wrong shapes.*head.weight"),
    (
        "quality",
        of_a_hundred,
        r"scores are [\d.]+ to [\d.]+, .* 0 to 1: set quality_scale to the best possible",
    ),
    (
        "quality",
        of_tid2013,
        r"scores are [\d.]+ to [\d.]+, .* 0 to 1: set quality_scale to the best possible",
    ),
]


@pytest.mark.parametrize(("role", "make", "said"), WRONG)
def test_the_error_names_a_wrong_file_and_what_it_lacks(role, make, said, tmp_path, photos, capsys):
    path = make(tmp_path)
    dropout = ["--dropout", "0.4"] if make in (other_size, not_linear, two_inputs) else []
    arguments = ["inspect", str(photos / "t1.jpg"), f"--{role}", str(path), *dropout]
    assert main.main(arguments) == 2
    said_in_all = capsys.readouterr().err
    assert "Traceback" not in said_in_all
    message = said_in_all.splitlines()[-1]  # a Ray of other tests may have printed before
    assert re.search(re.escape(str(path)) + ".*" + said, message), message


def test_a_job_with_a_wrong_file_stops_before_it_starts(photos, tmp_path, capsys):
    out = tmp_path / "table"
    arguments = ["score", str(photos), "--out", str(out), "--quality", str(other_network(tmp_path))]
    assert main.main(arguments) == 2
    assert "is neither DB-CNN-Lite" in capsys.readouterr().err
    assert not out.exists()


def test_a_checkpoint_is_read_on_its_own_scale(files, astronaut, tmp_path):
    """Models trained on LIVE Challenge score from 0 to 100. On KonIQ-10k's scale of 0 to 1, every face would
    get 100."""
    wanted = scored(astronaut, models={"quality": str(files["quality"])})["dbcnn"]
    for best in (100, 9):
        own = dbcnn(tmp_path / f"{best}.pth", best)
        found = scored(astronaut, models={"quality": str(own)}, quality_scale=best)["dbcnn"]
        assert found == pytest.approx(wanted, abs=1e-3) and 0 < found < 100


def test_a_scale_that_is_too_large_is_refused_too(files, photos, tmp_path, capsys):
    """Every face would get less than one point."""
    out = tmp_path / "table"
    (tmp_path / "job.yaml").write_text("quality_scale: 100\n")
    said = ["--quality", str(files["quality"]), "--config", str(tmp_path / "job.yaml")]
    assert main.main(["score", str(photos / "t1.jpg"), "--out", str(out), *said]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"quality\.pth: its scores are 0\.\d+ to 0\.\d+, .* 0 to 100: set quality_scale", message
    )
    assert not out.exists()


def test_dbcnn_lite_has_no_other_scale(photos, capsys, tmp_path):
    (tmp_path / "job.yaml").write_text("quality_scale: 1\n")
    assert main.main(["inspect", str(photos / "t1.jpg"), "--config", str(tmp_path / "job.yaml")]) == 2
    assert "is DB-CNN-Lite, whose scale is always 0 to 100" in capsys.readouterr().err


def test_the_scale_decides_values_and_is_on_record(files):
    settings = {"models": {"quality": str(files["quality"])}}
    assert record(settings)["quality_scale"] is None
    assert record({**settings, "quality_scale": 1})["quality_scale"] == 1


@pytest.mark.parametrize(
    ("points", "wrong"),
    [
        ([3512.0, 8020.0, 5100.0], True),
        ([np.nan, np.nan, np.nan], True),
        ([-90.0, 400.0, 300.0], True),
        ([104.0, 112.0, 109.0], False),  # excellent images, not clipped
        ([-12.0, -3.0, 0.4], False),  # very bad images
        ([5100.0, 55.0, 8020.0], False),  # one score is within the scale, so the scale is right
        ([230.0], False),  # a single face may be unlike all rated images
    ],
)
def test_a_batch_completely_outside_the_scale_stops_the_job(files, points, wrong):
    found = checkpoint.identify(files["quality"])
    told = pytest.raises(
        ModelFileError, match=r"mine: its scores are .*, but the assumed scale is 0 to 1: set"
    )
    with told if wrong else contextlib.nullcontext():
        checkpoint.check_scale(np.array(points, np.float32), found, "mine", both_sides=False)


def test_a_recogniser_with_a_second_output_for_the_norm_is_accepted(files, tmp_path, astronaut):
    """The first output is the embedding."""
    model = onnx.load(str(files["recogniser"]))
    model.graph.node.append(node("ReduceL2", ["683"], ["length"], axes=[1]))
    model.graph.output.append(helper.make_tensor_value_info("length", onnx.TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "two.onnx"))
    one, other = (
        scored(astronaut, models={"recogniser": str(path)}, dropout=0.4)["serfiq_raw"]
        for path in (files["recogniser"], tmp_path / "two.onnx")
    )
    assert one == other


def test_a_dropout_rate_lies_between_0_and_1():
    with pytest.raises(UsageError, match="dropout: input should be less than 1"):
        config.build({"dropout": 1.0})


# --- the closed form on recognisers for which it was not measured --------------------------------------


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "faceq.stages.scores"]


def test_heavy_tailed_features_bring_one_warning_with_the_gap_and_change_no_row(
    photos, astronaut, tmp_path, caplog
):
    images = [astronaut, photos / "t1.jpg", astronaut[:, ::-1].copy()]
    own = {"recogniser": str(heavy_tailed(tmp_path / "heavy.onnx"))}
    settings = {"models": own, "dropout": 0.5, "fiq_threshold": 0}
    rows = faceq.score_images(images, **settings).to_pylist()
    (said,) = warnings_of(caplog)
    (gap,) = re.findall(r"distances differ by about ([+-]\d+)% .*: set serfiq_passes: 100", said)
    drawn = faceq.score_images(images, serfiq_passes=2000, **settings).to_pylist()
    assert len(warnings_of(caplog)) == 1  # with dropout passes there is nothing to warn about
    distances = [np.log(2 / np.array([row["serfiq_raw"] for row in each]) - 1) for each in (rows, drawn)]
    assert (distances[0] / distances[1] - 1).mean() == pytest.approx(int(gap) / 100, abs=0.015)
    assert int(gap) != 0
    backwards = faceq.score_images(images[::-1], **settings).to_pylist()[::-1]
    assert [row["serfiq_raw"] for row in backwards] == [row["serfiq_raw"] for row in rows]


def test_there_is_no_warning_if_the_closed_form_holds(files, astronaut, caplog):
    """The closed form was measured on SFace. With another dropout rate, the job measures it again."""
    for settings in ({}, {"dropout": 0.3}):
        scored(astronaut, **settings)
    assert warnings_of(caplog) == []
    gap = DropoutDistances(
        fetch("sface"), choose(config.build({"dropout": 0.3})).recogniser, None, "cpu", 8, 1
    )
    face = geometry.align(astronaut, np.array(scored(astronaut)["landmarks"], np.float32).reshape(5, 2))
    assert abs(gap.gap(face[None])) < GAP / 2


def test_a_job_records_its_own_recogniser_and_its_gap(local_ray, photos, tmp_path, capsys):
    out, recogniser = str(tmp_path / "table"), heavy_tailed(tmp_path / "heavy.onnx")
    said = ["--recogniser", str(recogniser), "--dropout", "0.5"]
    assert main.main(["score", str(photos / "t1.jpg"), "--out", out, *said]) == 0
    (run,) = Table(out, S3Settings()).runs()
    digest = zoo.sha256(recogniser)
    assert run["models"][f"heavy.onnx@{digest[:8]}"] == {"sha256": digest, "licence": "not stated"}
    assert run["dropout"] == 0.5
    (note,) = run["notes"]
    assert re.match(r"serfiq: for this recogniser .* differ by about [+-]\d+%", note)
    assert note in capsys.readouterr().out


# --- faces without usable features ----------------------------------------------------------------------


MEASURED = (
    "width",
    "n_faces",
    "face_x",
    "landmarks",
    "yaw",
    "serfiq_raw",
    "serfiq",
    "embedding_norm",
    "dhash",
)


@pytest.mark.parametrize("operation", ["Mul", "Div"])
@pytest.mark.parametrize("passes", [None, 10])
def test_a_face_without_usable_features_is_an_unreadable_row(astronaut, tmp_path, operation, passes):
    dark = (astronaut * 0.12).astype(np.uint8)
    own = {"recogniser": str(blind_to_the_dark(tmp_path / "r.onnx", operation))}
    settings = {"models": own, "dropout": 0.4, "fiq_threshold": 0, "serfiq_passes": passes}
    rows = faceq.score_images([astronaut, dark, astronaut[:, ::-1].copy()], **settings).to_pylist()
    assert [row["status"] for row in rows] == ["scored", "unreadable", "scored"]
    assert rows[1]["error"].startswith("the recogniser gives no usable features for this face")
    assert all(rows[1][name] is None for name in (*MEASURED, "mask_coverage", "dbcnn"))
    (alone,) = faceq.score_images([astronaut], **settings).drop_columns("run_id").to_pylist()
    assert {**rows[0], "run_id": None} == {**alone, "run_id": None}


def test_one_such_face_is_a_row_and_a_job_stops_if_nearly_all_are(astronaut, tmp_path, local_ray, capsys):
    dark, bright = (demo._jpeg((astronaut * share).astype(np.uint8)) for share in (0.12, 1.0))
    recogniser = str(blind_to_the_dark(tmp_path / "r.onnx", "Mul"))
    models = {"models": {"recogniser": recogniser}, "dropout": 0.4, "fiq_threshold": 0}
    found = faceq.score_images([bright, dark, bright], **models)
    assert found["status"].to_pylist() == ["scored", "unreadable", "scored"]

    demo.write_shards(tmp_path / "all", ((f"{i:03}.jpg", dark) for i in range(120)))
    settings = ["--recogniser", recogniser, "--dropout", "0.4", "--fiq-threshold", "0"]
    assert main.main(["score", str(tmp_path / "all"), "--out", str(tmp_path / "table"), *settings]) == 1
    assert "faces have no score: the recogniser gives no usable features" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_face_without_a_finite_quality_is_an_unreadable_row(astronaut, monkeypatch, value):
    """Simulates half precision that overflows on a GPU."""
    rate = scores.ScoreQuality._rate

    def overflows(stage, crops, masks):
        points = rate(stage, crops, masks)
        if len(points) == 2:
            points[1] = value
        return points

    monkeypatch.setattr(scores.ScoreQuality, "_rate", overflows)
    rows = faceq.score_images([astronaut, astronaut[:, ::-1].copy()], fiq_threshold=0).to_pylist()
    assert [row["status"] for row in rows] == ["scored", "unreadable"]
    assert "no finite score" in rows[1]["error"] and rows[1]["serfiq"] is None and rows[1]["dbcnn"] is None

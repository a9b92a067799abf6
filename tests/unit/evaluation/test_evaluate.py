"""From a table and a list of identities to figures, a JSON file and a plot."""

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from here import score_here
from PIL import Image
from tars import write_tar

from faceq import config
from faceq.cli import main
from faceq.errors import UsageError
from faceq.evaluation import edc, identities
from faceq.models.fetch import FetchOptions
from faceq.stages.chosen_models import choose
from faceq.storage import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.store import Table
from jobs import demo

STORAGE = S3Settings()


@pytest.fixture(scope="module")
def shots() -> list[tuple[str, bytes]]:
    """Eight people, each sharp and in all degraded copies of three of the demo's ladders."""
    kinds = ("-sharp-", "-blur-", "-noise-", "-low_light-")
    made = demo.frames(demo.source_faces())
    return [(name, data) for name, data in made if any(kind in name for kind in kinds)]


@pytest.fixture(scope="module")
def folder(shots, tmp_path_factory):
    """Half of the frames as images, half in a tar, with a list of identities."""
    folder = tmp_path_factory.mktemp("edc")
    (folder / "in").mkdir()
    for name, data in shots[::2]:
        (folder / "in" / name).write_bytes(data)
    demo.write_shards(folder / "in" / "tars", iter(shots[1::2]))
    with open(folder / "identities.csv", "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "identity"])
        lines.writerows((name, name.split("-")[0]) for name, _ in shots)
        lines.writerow(["nobody.jpg", "nobody"])
    return folder


def scored(folder, name: str, **values) -> Table:
    return Table(score_here(str(folder / "in"), str(folder / name), fiq_threshold=0, **values), STORAGE)


@pytest.fixture(scope="module")
def table(folder) -> Table:
    return scored(folder, "table")


@pytest.fixture(scope="module")
def kept(folder) -> Table:
    return scored(folder, "kept", embeddings=True)


@pytest.fixture(scope="module")
def found(folder, table) -> identities.Evaluation:
    known = identities.known_faces(table, str(folder / "identities.csv"), STORAGE)
    return identities.evaluate_edc(table, known, STORAGE, FetchOptions())


def test_faces_are_found_in_pictures_and_tars_by_name(found, shots):
    known = found.known
    assert len(known.names) == 8 and known.without_face >= 1
    assert len(known.people) + known.without_face == len(shots) + 1
    named = [known.names[person] for person in known.people]
    assert named == [image.split("-")[0] for image in known.rows["image"].to_pylist()]


def test_serfiq_predicts_errors_and_a_random_score_does_not(found):
    areas = {r.quality: r.pauc[-1] for r in found.results if r.fmr == 1e-2}
    assert list(areas) == ["serfiq_raw", "embedding_norm", "det_score", "face_size", "random"]
    assert areas["serfiq_raw"] < 0.85 < areas["random"]


def test_aligned_faces_are_not_ranked_by_a_detector(table):
    rows = table.rows(["serfiq_raw", "embedding_norm", "det_score", "face_w", "face_h"]).drop_null()
    without = rows.set_column(2, "det_score", pa.nulls(len(rows), pa.float32()))
    assert identities.qualities(rows).keys() - identities.qualities(without).keys() == {"det_score"}


def test_kept_embeddings_give_the_same_figures(folder, kept, found):
    """Kept embeddings save reading the frames again. Faces that are aligned again from the table are the
    same."""
    known = identities.known_faces(kept, str(folder / "identities.csv"), STORAGE)
    again = identities.evaluate_edc(kept, known, STORAGE, FetchOptions())
    for one, other in zip(found.results, again.results, strict=True):
        assert (one.fmr, one.quality, one.fnmr) == (other.fmr, other.quality, other.fnmr)
        assert one.pauc == pytest.approx(other.pauc)
    faces = np.stack(list(identities.aligned_faces(again.known.rows, kept, STORAGE)))
    embeddings = identities.embeddings_of(faces, kept, FetchOptions())
    stored = np.stack(again.known.rows["embedding"].to_numpy())
    assert np.allclose(embeddings, stored, atol=1e-5)


def test_identities_that_came_with_the_frames_give_the_same_figures(folder, shots, tmp_path):
    """Half of the frames have theirs in a tar's sidecars, half in a manifest."""
    (tmp_path / "list.jsonl").write_text(
        "".join(
            json.dumps({"uri": str(folder / "in" / name), "json": {"identity": name.split("-")[0]}}) + "\n"
            for name, _ in shots[::2]
        )
    )
    members = []
    for name, data in shots[1::2]:
        who = json.dumps({"identity": name.split("-")[0]}).encode()
        members += [(name, data), (f"{name.removesuffix('.jpg')}.json", who)]
    write_tar(tmp_path / "shots.tar", members)
    both = Table(
        score_here(
            str(tmp_path / "shots.tar"),
            str(tmp_path / "table"),
            fiq_threshold=0,
            embeddings=True,
            manifest=[str(tmp_path / "list.jsonl")],
        ),
        STORAGE,
    )
    known = identities.people_in_extra(both, "extra.json.identity", STORAGE)
    assert [known.names[person] for person in known.people] == [
        image.split("-")[0] for image in known.rows["image"].to_pylist()
    ]
    assert len(known.names) == 8 and len(known.people) == both.rows(["serfiq"])["serfiq"].drop_null().length()
    command = ["evaluate", "edc", both.uri, "--identity", "extra.json.identity"]
    assert main.main(command) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name either a file of identities or --identity"),
        (["list.csv", "--identity", "extra.a"], "name either a file of identities or --identity"),
        (["--identity", "identity"], "identity: expected extra.KEY"),
        (["--identity", "extra."], "extra.: expected extra.KEY"),
        (["--identity", "extra.o'clock"], "extra.o'clock: names the person of 0 scored faces"),
    ],
)
def test_a_wrong_name_of_identities_is_refused(table, arguments, said, capsys):
    assert main.main(["evaluate", "edc", table.uri, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_command_writes_figures_and_a_plot(folder, table, capsys):
    figures, plot = folder / "edc.json", folder / "edc.png"
    arguments = ["evaluate", "edc", table.uri, str(folder / "identities.csv")]
    assert main.main([*arguments, "--json", str(figures), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "serfiq_raw" in printed and "genuine pairs" in printed and "of 8 people" in printed
    lines = json.loads(figures.read_text())
    assert len(lines) == 5 * len(edc.FMRS)
    assert set(lines[0]) == {"fmr", "quality", "fnmr", "pauc20", "pauc30", "low", "high"}
    with Image.open(plot) as image:
        assert image.format == "PNG" and image.width > 1500
        assert len(set(image.convert("RGB").resize((200, 100)).getdata())) > 50


def test_the_figures_and_the_plot_may_go_to_s3(folder, kept, s3, monkeypatch):
    monkeypatch.chdir(folder)
    outputs = ["--json", f"{s3}/edc/edc.json", "--plot", f"{s3}/edc/edc.png"]
    assert main.main(["evaluate", "edc", kept.uri, "identities.csv", *outputs]) == 0
    files = filesystem.filesystem(s3, STORAGE)
    assert len(json.loads(files.cat_file("frames/edc/edc.json"))) == 5 * len(edc.FMRS)
    assert files.cat_file("frames/edc/edc.png").startswith(b"\x89PNG")
    assert not (folder / "s3:").exists()


def test_the_command_fits_a_calibration(folder, table, capsys):
    assert main.main(["evaluate", "calibrate", table.uri, "--discard", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "(20" in printed and "are below it" in printed
    yaml = printed.splitlines()[-1]
    (folder / "job.yaml").write_text(yaml)
    own = choose(config.load(str(folder / "job.yaml"), {})).calibration
    raw = table.rows(["serfiq_raw"])["serfiq_raw"].drop_null().to_numpy()
    assert (raw < own.threshold).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,who\na.jpg,1\n", "no column image and identity; found file, who"),
        ("", "no column image and identity; found none"),
        ("image,identity\na.jpg,\n", "line 2: image or identity is empty"),
        ("image,identity\na.jpg,1\na.jpg,2\n", "line 3: a.jpg is 2 here, but 1 in an earlier line"),
        ("image,identity\na.jpg,1\n", "names the person of 0 scored faces"),
        (b"image,identity\n\xff\xfe,1\n", "cannot be read as CSV"),
        ('image,identity\n"' + "a.jpg,1\n" * 30_000, "cannot be read as CSV"),
    ],
)
def test_a_wrong_list_is_one_line_and_status_2(table, tmp_path, text, said, capsys):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main.main(["evaluate", "edc", table.uri, str(path)]) == 2
    message = capsys.readouterr().err
    assert said in message and str(path) in message and message.count("\n") == 1


def test_wrong_usage_is_an_error(table, folder, tmp_path, capsys):
    identities = str(folder / "identities.csv")
    for arguments, said in (
        (["edc", str(tmp_path), identities], "there is no faceq table here"),
        (["edc", table.uri, str(tmp_path / "none.csv")], "cannot be read: "),
        (["edc", table.uri, identities, "--plot", "edc.gif"], "the plot is a PNG file"),
        (["edc", table.uri, identities, "--json", str(tmp_path / "no" / "f")], "there is no folder"),
        (["edc", table.uri, identities, "--json", str(tmp_path)], "it is a folder"),
        (["calibrate", str(tmp_path)], "there is no faceq table here"),
    ):
        assert main.main(["evaluate", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_name_that_two_sources_have_is_refused(shots, tmp_path):
    for place in ("a", "b"):
        (tmp_path / "in" / place).mkdir(parents=True)
        (tmp_path / "in" / place / "same.jpg").write_bytes(shots[0][1])
    table = scored(tmp_path, "table")
    (tmp_path / "list.csv").write_text("image,identity\nsame.jpg,x\n")
    with pytest.raises(
        UsageError, match=r"same\.jpg is ambiguous: it is in .*a/same\.jpg and in .*b/same\.jpg"
    ):
        identities.known_faces(table, str(tmp_path / "list.csv"), STORAGE)


def test_a_frame_that_is_gone_is_named(shots, tmp_path):
    (tmp_path / "in").mkdir()
    for name, data in shots[:3]:
        (tmp_path / "in" / name).write_bytes(data)
    table = scored(tmp_path, "table")
    (tmp_path / "list.csv").write_text(
        "image,identity\n" + "".join(f"{name},{i % 2}\n" for i, (name, _) in enumerate(shots[:3]))
    )
    lost = tmp_path / "in" / shots[1][0]
    lost.write_bytes(b"")
    with pytest.raises(UsageError, match=rf"{lost.name} can no longer be read"):
        known = identities.known_faces(table, str(tmp_path / "list.csv"), STORAGE)
        identities.evaluate_edc(table, known, STORAGE, FetchOptions())

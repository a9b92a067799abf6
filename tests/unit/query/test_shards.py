"""Export of selected frames to WebDataset tars: unchanged bytes with their rows, and no frame twice, whatever
happens."""

import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import boto3
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from exported import samples
from here import score_here
from PIL import Image
from real_s3 import BUCKET
from videos import as_file

import faceq
from faceq import sources
from faceq.cli import main
from faceq.query import shard_export
from faceq.query.dataset_card import dataset_card
from faceq.query.rows import Rows
from faceq.query.shard_export import Selection, export_shards
from faceq.sources import listing
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK
from faceq.table.store import Table
from jobs import demo


@pytest.fixture
def originals(frames_in) -> dict[int, bytes]:
    """The frames of the input by id, as the readers return them; those of videos as PNGs."""
    read = sources.read_shards(listing.list_shards([str(frames_in)], S3Settings()), S3Settings())
    return {frame.id: as_file(frame.image) for frame in read if frame.image is not None}


def endings_there(folder: Path) -> set[str]:
    """The endings of the images in all tars."""
    found = set()
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {name.split(".", 1)[1] for name in tar.getnames()}
    return found - {"faceq.json"}


def endings_told(folder: Path) -> set[str]:
    """The endings that the dataset card lists as columns."""
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    names = {column["name"] for column in card["dataset_info"]["features"]}
    return names - {"faceq.json", "__key__", "__url__"}


def export(table: str, folder: Path, selection: Selection = Selection()):  # noqa: B008 - Selection is frozen
    with Rows(table, S3Settings()) as rows:
        return export_shards(rows, selection, str(folder), S3Settings())


def test_chosen_frames_come_byte_for_byte_with_their_rows(looked_at, originals, tmp_path, capsys):
    """Frames from tars, a Parquet file, single images and a video."""
    good = faceq.read_table(looked_at, "serfiq >= 0.5")
    assert main.main(["query", looked_at, "serfiq >= 0.5", "--export-shards", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{len(good)} frames in {tmp_path}\n"
    pictures, rows = samples(tmp_path)
    assert {row["source"].rsplit(".")[-1] for row in rows.values()} >= {"tar", "parquet", "jpg", "mp4"}
    assert pictures == {key: originals[key] for key in good["frame_id"].to_pylist()}
    assert rows == {row["frame_id"]: row for row in good.to_pylist()}


def test_the_ending_is_that_of_the_content(looked_at, frames_in, tmp_path):
    export(
        looked_at,
        tmp_path,
        Selection("source like '%.mp4' or source like '%Hanks%' or member like '%sharp%'"),
    )
    with tarfile.open(tmp_path / "frames-000000.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar if not info.name.endswith(".json")}
    assert {name.split(".")[1] for name in members} == {"jpg", "png"}
    for name, content in members.items():
        assert Image.open(io.BytesIO(content)).format == {"jpg": "JPEG", "png": "PNG"}[name.split(".")[1]]


def test_an_interrupted_export_resumes_without_duplicates(looked_at, originals, tmp_path, monkeypatch):
    """The export is stopped repeatedly, each time after another number of frames."""
    monkeypatch.setattr(shard_export, "SHARD_FRAMES", 4)
    wanted = faceq.read_table(looked_at, "n_faces > 0", ["frame_id"])["frame_id"].to_pylist()

    class StopError(Exception):
        pass

    written = []
    for stop in (3, 6, 9, 5, None):

        def progress(more: int, left: list[int] = [stop]) -> None:  # noqa: B006 - it keeps the countdown
            if left[0] is not None:
                left[0] -= 1 if more == 1 else 0
                if left[0] == 0:
                    raise StopError

        try:
            with Rows(looked_at, S3Settings()) as rows:
                done = export_shards(rows, Selection("n_faces > 0"), str(tmp_path), S3Settings(), progress)
        except StopError:
            written.append(len(samples(tmp_path)[0]))
            if written[-1]:
                assert endings_told(tmp_path) >= endings_there(tmp_path)
    assert written == sorted(written) and 0 < written[-1] < len(wanted)
    assert done.already == written[-1]
    pictures, rows = samples(tmp_path)
    assert pictures == {key: originals[key] for key in wanted} and rows.keys() == pictures.keys()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert endings_told(tmp_path) == endings_there(tmp_path)


def test_a_killed_export_resumes_without_duplicates(looked_at, originals, tmp_path):
    """The export is killed in the middle of a tar. The partial tar is not a file of the export."""
    script = (
        "import time; from faceq.storage.settings import S3Settings\n"
        "from faceq.query import shard_export as shards; from faceq.query.rows import Rows\n"
        "shards.SHARD_FRAMES = 4\n"
        f"with Rows({looked_at!r}, S3Settings()) as rows:\n"
        f"    shards.export_shards(rows, shards.Selection(), {str(tmp_path)!r}, S3Settings(),"
        " lambda more: time.sleep(0.2))"
    )
    running = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 200
    while not (list(tmp_path.glob("*.tar")) and list(tmp_path.glob(".frames-*"))):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = len(samples(tmp_path)[0])
    done = export(looked_at, tmp_path)
    assert done.already == before > 0
    assert samples(tmp_path)[0] == originals
    assert not list(tmp_path.glob(".frames-*"))


ORDERS = {
    "a": ("noface", "small", "astronaut-sharp", "broken", "clip"),
    "b": ("clip", "astronaut-sharp", "noface", "broken"),
    "c": ("broken", "clip", "noface", "group"),
}
"""Folders of a table, and the kinds of frames of their sources in order."""


@pytest.fixture(scope="module")
def orders(frames_in, tmp_path_factory) -> str:
    """A table whose sources are in several orders. Each source has frames of one kind, mostly six."""
    folder = tmp_path_factory.mktemp("orders") / "in"
    frames = list(demo.frames(demo.source_faces()))
    for name, kinds in ORDERS.items():
        (folder / name).mkdir(parents=True)
        for number, kind in enumerate(kinds):
            if kind == "clip":
                shutil.copy(frames_in / "clip.mp4", folder / name / f"{number}.mp4")
                continue
            found = [image for found, image in frames if found.startswith(kind)]
            images = itertools.islice(itertools.cycle(found), 6)
            demo.write_shards(folder / name / str(number), ((f"{i}.jpg", e) for i, e in enumerate(images)))
    return score_here(str(folder), str(folder.parent / "table"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_read_every_value_in_any_order(orders, order, streaming, tmp_path, monkeypatch):
    """The types come from the dataset card, because the first five samples of the first tar do not determine
    them."""
    monkeypatch.setattr(shard_export, "SHARD_FRAMES", 8)
    assert export(orders, tmp_path / "good", Selection(f"source like '%/in/{order}/%'")).written >= 20
    pictures, rows = samples(tmp_path / "good")
    assert len(list((tmp_path / "good").glob("*.tar"))) > 2
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(
        str(tmp_path / "good"), split="train", streaming=streaming, cache_dir=cache
    )
    assert list(loaded.features) == ["bin", "jpg", "png", "faceq.json", "__key__", "__url__"]
    for ending in ("jpg", "png"):
        loaded = loaded.cast_column(ending, datasets.Image(decode=False))
    found = list(loaded)
    assert {row["faceq.json"]["frame_id"]: row["faceq.json"] for row in found} == rows and len(found) == len(
        rows
    )
    for row in found:
        image = row["jpg"] or row["png"] or {"bytes": row["bin"]}
        assert image["bytes"] == pictures[row["faceq.json"]["frame_id"]]
    assert loaded.features["faceq.json"]["dhash"].dtype == "int64"
    assert loaded.features["faceq.json"]["dbcnn"].dtype == "float32"


def test_datasets_infer_types_of_mixed_rows_from_the_first_samples(frames_in, tmp_path):
    """Without the card: five frames without a face come before frames with scores."""
    frames = list(demo.frames(demo.source_faces()))
    for number, kind in enumerate(("noface", "small", "astronaut-sharp")):
        found = itertools.cycle([image for name, image in frames if name.startswith(kind)])
        members = ((f"{i}.jpg", image) for i, image in enumerate(itertools.islice(found, 6)))
        demo.write_shards(tmp_path / "in" / str(number), members)
    table = score_here(str(tmp_path / "in"), str(tmp_path / "table"))
    assert export(table, tmp_path / "good").written == 18
    _, rows = samples(tmp_path / "good")
    tars, cache = str(tmp_path / "good" / "*.tar"), str(tmp_path / "cache")
    loaded = datasets.load_dataset("webdataset", data_files=tars, split="train", cache_dir=cache)
    found = {row["faceq.json"]["frame_id"]: row["faceq.json"] for row in loaded.remove_columns("jpg")}
    assert {row["status"] for row in rows.values()} == {"no_face", "face_too_small", "scored"}
    assert set(found) == set(rows)
    for key, row in rows.items():
        assert found[key]["serfiq"] == (row["serfiq"] and pytest.approx(row["serfiq"]))
        assert found[key]["status"] == row["status"] and found[key]["landmarks"] == (
            row["landmarks"] and pytest.approx(row["landmarks"])
        )


def test_the_dataset_card_names_every_kind_of_column(tmp_path):
    struct = pa.struct([("face_x", pa.float32()), ("embedding", pa.list_(pa.float32()))])
    columns = pa.schema(
        [
            *(("frame_id", pa.int64()), ("timestamp_s", pa.float64()), ("error", pa.string())),
            *(("landmarks", pa.list_(pa.float32())), ("faces", pa.list_(struct)), ("box", struct)),
            ("deep", pa.list_(pa.list_(pa.int32()))),
        ]
    )
    (tmp_path / "README.md").write_text(dataset_card(["bin", "jpg"], [], columns))
    assert "Frames of videos are lossless PNGs." in (tmp_path / "README.md").read_text()
    info = datasets.info.DatasetInfosDict.from_directory(str(tmp_path))["default"]
    assert info.features["faceq.json"] == dict(datasets.Features.from_arrow_schema(columns))
    assert info.features["jpg"] == datasets.Image() and info.features["bin"] == datasets.Value("binary")


def test_rows_hold_no_nan(looked_at, tmp_path):
    """Another program may have put NaN into a table."""
    place = shutil.copytree(looked_at, tmp_path / "table")
    (path,) = [path for path in Table(str(place), S3Settings()).row_files() if "status=scored" in path]
    rows = pq.read_table(path, partitioning=None)
    spoilt = pa.array([[math.nan, 1.0]] * len(rows), pa.list_(pa.float32()))
    rows = rows.set_column(rows.schema.get_field_index("landmarks"), "landmarks", spoilt)
    nan = pa.array([math.inf] * len(rows), pa.float32())
    pq.write_table(rows.set_column(rows.schema.get_field_index("yaw"), "yaw", nan), path)
    export(str(place), tmp_path / "good", Selection("status = 'scored'"))
    found = samples(tmp_path / "good")[1].values()
    assert found and all((row["yaw"], row["landmarks"]) == (None, [None, 1.0]) for row in found)


def test_the_same_command_again_writes_nothing(looked_at, tmp_path):
    export(looked_at, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.tar")}
    again = export(looked_at, tmp_path)
    assert again.written == 0 and again.already > 0
    assert {path: path.read_bytes() for path in tmp_path.glob("*.tar")} == before


def test_two_exports_are_the_same_to_the_byte(looked_at, tmp_path):
    for name in ("a", "b"):
        export(looked_at, tmp_path / name)
    one, other = ((tmp_path / name / "frames-000000.tar").read_bytes() for name in ("a", "b"))
    assert one == other


def test_limit_and_order_choose_the_frames(looked_at, tmp_path):
    best = faceq.read_table(looked_at, "dbcnn is not null").sort_by([("dbcnn", "descending")])[:3]
    export(looked_at, tmp_path, Selection("dbcnn is not null", "dbcnn desc", 3))
    assert sorted(samples(tmp_path)[0]) == sorted(best["frame_id"].to_pylist())


def test_broken_frames_are_exported_unchanged_and_breaks_are_not(looked_at, originals, tmp_path):
    broken = faceq.read_table(looked_at, f"status = 'unreadable' and frame_index <> {BREAK}", ["frame_id"])
    export(looked_at, tmp_path, Selection("status = 'unreadable'"))
    assert samples(tmp_path)[0] == {key: originals[key] for key in broken["frame_id"].to_pylist()}


def test_missing_frames_are_reported_and_the_others_exported(looked_at, frames_in, tmp_path, capsys):
    photo = frames_in / "t1.jpg"
    content = photo.read_bytes()
    photo.unlink()
    try:
        assert main.main(["query", looked_at, "n_faces > 0", "--export-shards", str(tmp_path / "a")]) == 1
        assert f"1 frames could not be read, the first: {photo}: not found" in capsys.readouterr().err
    finally:
        photo.write_bytes(content)
    assert main.main(["query", looked_at, "n_faces > 0", "--export-shards", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.startswith("1 frames in ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serfiq > 0.9"], "contains another export (where was None, is now 'serfiq > 0.9')"),
        (["--sql", "select 1"], "takes a CONDITION, not --sql"),
        (["--columns", "dbcnn"], "leave out --columns"),
        (["--order-by", "dbcnn"], "add --limit N to take the first N frames in that order"),
    ],
)
def test_another_export_into_the_same_folder_is_refused(looked_at, tmp_path, arguments, said, capsys):
    export(looked_at, tmp_path, Selection(limit=None))
    assert main.main(["query", looked_at, *arguments, "--export-shards", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_the_condition_that_a_refused_statement_is_pointed_to_works(looked_at, tmp_path, capsys):
    assert main.main(["query", looked_at, "--sql", "select 1", "--export-shards", str(tmp_path / "a")]) == 2
    condition = capsys.readouterr().err.split('such as "')[1].rstrip('"\n')
    assert main.main(["query", looked_at, condition, "--export-shards", str(tmp_path / "a")]) == 0
    with tarfile.open(tmp_path / "a" / "frames-000000.tar") as tar:
        rows = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    every = faceq.read_table(looked_at, "status = 'scored'").to_pylist()
    for source in {row["source"] for row in every}:
        best = sorted((row["dbcnn"] for row in every if row["source"] == source), reverse=True)[:5]
        found = sorted((row["dbcnn"] for row in rows if row["source"] == source), reverse=True)
        assert found == pytest.approx(best)
    assert len(rows) > 5


def test_a_folder_with_other_files_is_refused(looked_at, photos, capsys):
    assert main.main(["query", looked_at, "--export-shards", str(photos)]) == 2
    assert "not an export of faceq" in capsys.readouterr().err


def test_shards_on_s3(s3, looked_at, originals, tmp_path):
    done = export(looked_at, f"{s3}/chosen", Selection("status = 'scored'"))
    again = export(looked_at, f"{s3}/chosen", Selection("status = 'scored'"))
    assert done.written > 0 and (again.written, again.already) == (0, done.written)
    boto3.client("s3").download_file(BUCKET, "chosen/frames-000000.tar", str(tmp_path / "a.tar"))
    pictures, _ = samples(tmp_path)
    assert len(pictures) == done.written and all(originals[key] == pictures[key] for key in pictures)


def test_the_frames_of_a_source_stay_together():
    """For any division of the rows into batches."""
    sources = np.repeat([f"s{i}" for i in range(9)], [1, 5, 1, 1, 12, 2, 1, 1, 4])
    table = pa.table({"source": sources, "n": range(len(sources))})
    for size in (1, 2, 3, 7, 100):
        parts = (table[start : start + size] for start in range(0, len(table), size))
        chunks = list(shard_export._by_sources(parts))
        assert pa.concat_tables(chunks)["n"].to_pylist() == list(range(len(sources)))
        counted = Counter(source for chunk in chunks for source in set(chunk["source"].to_pylist()))
        assert set(counted.values()) == {1}

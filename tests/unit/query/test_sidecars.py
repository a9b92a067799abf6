"""Sidecars of tars in exports: the same bytes as in the source beside the row, for every loader."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from here import score_here

from faceq.cli import main
from faceq.query.dataset_card import dataset_card
from faceq.query.rows import Rows
from faceq.query.shard_export import Exported, Selection, export_shards
from faceq.sources import samples
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA
from jobs import demo

LARGE = b"caption " * 4000  # more than `extra_bytes`
WIDE = "a" * 120 + ".txt"
CLS = b" 7\n"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return next(image for name, image in demo.frames(demo.source_faces()) if name.startswith("astronaut"))


@pytest.fixture(scope="module")
def sidecars() -> dict[str, dict[str, bytes]]:
    """The sidecars of two photos by key. The types of `json` and `npy` differ."""
    return {
        "0001": {
            "json": b'{"identity":  "eileen", "age": 36.50}',
            "txt": "\ufeffun été".encode(),
            "npy": npy(np.eye(2, dtype=np.float32)),
            "seg.json": b"[1, 2]",
        },
        "0002": {"json": b'["other"]', "cls": CLS, "npy": npy(np.arange(3)), "long": LARGE, WIDE: b"wide"},
    }


@pytest.fixture(scope="module")
def scored(photo, sidecars, tmp_path_factory) -> str:
    """A table of a tar by webdataset's own writer."""
    folder = tmp_path_factory.mktemp("sidecars")
    with webdataset.TarWriter(str(folder / "in.tar"), encoder=False) as writer:
        for key, files in sidecars.items():
            writer.write({"__key__": key, "jpg": photo, **files})
    return score_here(str(folder / "in.tar"), str(folder / "table"))


def export(table: str, folder: Path, where: str | None = None) -> Exported:
    with Rows(table, S3Settings()) as rows:
        return export_shards(rows, Selection(where), str(folder), S3Settings())


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of each sample by what follows the key, by the key that the sample had in its source."""
    found: dict[str, dict[str, bytes]] = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                key, ending = info.name.split(".", 1)
                found.setdefault(key, {})[ending] = tar.extractfile(info).read()
    return {json.loads(files["faceq.json"])["member"].split(".")[0]: files for files in found.values()}


def tar_of(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_a_round_trip_keeps_every_byte(scored, photo, sidecars, tmp_path):
    done = export(scored, tmp_path)
    assert (done.written, done.lost_sidecars) == (2, 0)
    found = members(tmp_path)
    for key, files in sidecars.items():
        row = json.loads(found[key].pop("faceq.json"))
        assert row["status"] == "scored" and row["dbcnn"] > 0 and row["member"] == f"{key}.jpg"
        assert found[key] == {"jpg": photo, **files}


def test_webdataset_and_datasets_read_the_sidecars(scored, sidecars, tmp_path):
    export(scored, tmp_path / "good")
    (path,) = (tmp_path / "good").glob("*.tar")
    for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode():
        assert sample["faceq.json"]["dbcnn"] > 0
        assert sample["json"] in ({"identity": "eileen", "age": 36.5}, ["other"])
    loaded = datasets.load_dataset(
        str(tmp_path / "good"), split="train", cache_dir=str(tmp_path / "cache")
    ).sort("__key__")
    by_key = {row["faceq.json"]["member"][:4]: row for row in loaded}
    first, second = by_key["0001"], by_key["0002"]
    assert first["json"] == {"identity": "eileen", "age": 36.5} and second["json"] == ["other"]
    assert first["npy"] == [[1, 0], [0, 1]] and second["npy"] == [0, 1, 2]
    assert first["txt"] == "\ufeffun été" and second["txt"] is None
    assert first["seg.json"] == [1, 2] and first["cls"] is None and second["cls"] == 7
    assert second["long"] == LARGE and second[WIDE] == "wide"


def test_an_export_can_be_scored_and_exported_again(scored, sidecars, tmp_path):
    """The row of the first export is replaced by the new one."""
    export(scored, tmp_path / "once")
    again = score_here(str(tmp_path / "once"), str(tmp_path / "table"))
    export(again, tmp_path / "twice")
    first, second = members(tmp_path / "once"), members(tmp_path / "twice")
    assert len(second) == 2
    old = {tuple(sorted((n, c) for n, c in files.items() if n != "faceq.json")) for files in first.values()}
    new = {tuple(sorted((n, c) for n, c in files.items() if n != "faceq.json")) for files in second.values()}
    assert old == new
    for files in second.values():
        extra = json.loads(json.loads(files["faceq.json"])["extra"])
        assert extra["faceq.json"]["status"] == "scored"


def test_sidecars_belong_to_the_images_whose_name_they_share(photo, tmp_path):
    """A sidecar of the sample comes with both images, those of one image with this one. Names are unique."""
    files = {
        "a.left.jpg": photo,
        "a.left.txt": b"left",
        "a.right.jpg": photo,
        "a.txt": b"both",
        "a.jpg.TXT": b"upper",
        "b.bin": b"not an image",
        "b.jpg": b"broken",
    }
    table = score_here(tar_of(tmp_path / "in.tar", files), str(tmp_path / "table"))
    export(table, tmp_path / "out", "member <> 'a.left.jpg'")
    found = {}
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        for info in tar:
            key, ending = info.name.split(".", 1)
            found.setdefault(key, {})[ending] = tar.extractfile(info).read()
    right, broken = sorted(found.values(), key=len)[::-1]
    assert right.pop("faceq.json") and broken.pop("faceq.json")
    assert right == {"jpg": photo, "txt": b"both", "jpg.TXT": b"upper"}
    assert broken == {"bin": b"broken", "2.bin": b"not an image"}


def test_too_many_sidecars_are_reported(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, "MOST_SIDECARS", 2)
    files = {"a.jpg": photo, **{f"a.{number}": b"x" for number in range(5)}}
    table = score_here(tar_of(tmp_path / "in.tar", files), str(tmp_path / "table"))
    assert main.main(["query", table, "true", "--export-shards", str(tmp_path / "out")]) == 1
    assert "3 sidecars were not written" in capsys.readouterr().err
    assert set(members(tmp_path / "out")["a"]) == {"jpg", "faceq.json", "0", "1"}


def test_the_card_leaves_out_sidecars_of_unknown_type(tmp_path):
    card = dataset_card(["jpg"], ["npz", "txt.gz", "txt", "wav"], SCHEMA)
    (tmp_path / "README.md").write_text(card)
    features = datasets.info.DatasetInfosDict.from_directory(str(tmp_path))["default"].features
    assert set(features) == {"jpg", "txt", "wav", "faceq.json", "__key__", "__url__"}
    assert features["txt"] == datasets.Value("string") and features["wav"] == datasets.Value("binary")

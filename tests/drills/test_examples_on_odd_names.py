"""The scripts in examples/ return each frame that passes exactly once, with its name, from any source."""

import importlib.util
import io
import re
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import ray
from documents import blocks, run, steps
from here import score_here
from PIL import Image
from places import ROOT
from videos import write_video

import faceq
from jobs import demo

WHERE = "serfiq is not null or source is null"
"""A condition that needs parentheses."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """A folder with a table of images, shards and a video. Also returns the names of the frames in each
    shard.

    The members have endings other than `.jpg`, dots in their names, and one name occurs twice.
    """
    place = tmp_path_factory.mktemp("odd")
    picture = demo.source_faces()["astronaut"]
    jpeg, png = demo._jpeg(picture), io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG")
    shards = {"00000.tar": ["a.0001.jpg", "a.0002.jpg", "b.png", "C.JPG"], "twice.tar": ["a.jpg", "a.jpg"]}
    (place / "in").mkdir()
    for shard, members in shards.items():
        with tarfile.open(place / "in" / shard, "w") as tar:
            for name in members:
                data = png.getvalue() if name.endswith("png") else jpeg
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (place / "in" / "alone.jpg").write_bytes(jpeg)
    write_video(place / "in" / "clip.mp4", [np.asarray(picture)] * 2)
    score_here(str(place / "in"), str(place / "table"), fiq_threshold=0)
    assert faceq.read_table(str(place / "table"), WHERE).num_rows == 9
    return place, {**shards, "twice.tar": ["a.jpg", "a.jpg#2"]}


def script_of_the_page(library: str) -> str:
    """The program in docs/how-to/training.md that filters shards, for `00000.tar` of the table."""
    text = (ROOT / "docs" / "how-to" / "training.md").read_text(encoding="utf-8")
    condition = "serfiq >= 0.6 and dbcnn >= 55 and source like '%.tar'"
    found = [step.command for step in steps(blocks(text)) if condition in step.command]
    (script,) = [script for script in found if library in script]
    assert "demo/table" in script
    return script.replace("demo/table", "table").replace(condition, "source like '%00000.tar'")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def read_by_most(place: Path, shards: dict[str, list[str]]) -> list[str]:
    """The names of the frames that the examples read: all except those of the video."""
    return sorted([str(place / "in" / "alone.jpg"), *(name for names in shards.values() for name in names)])


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_gives_each_frame_once_whatever_the_workers(odd, workers):
    place, shards = odd
    script = f"""
        import sys
        sys.path.insert(0, "{ROOT}/examples")
        from pytorch_dataset import DataLoader, GoodFrames
        frames = GoodFrames("table", "{WHERE}", side=32)
        for names, images in DataLoader(frames, batch_size=2, num_workers={workers}):
            assert images.shape == (len(names), 3, 32, 32) and images.float().std() > 10
            print(*names, sep="\\n")
        print("skipped", frames.skipped)
    """
    outcome = run([sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines())], place)
    assert outcome.status == 0, outcome.printed
    *names, skipped = outcome.out.splitlines()
    assert sorted(names) == read_by_most(place, shards) and skipped == "skipped 2"


def test_webdataset_gives_each_frame_of_a_shard_by_its_whole_name(odd, monkeypatch):
    place, _ = odd
    monkeypatch.chdir(place)
    module = example("webdataset_loader")
    # webdataset refuses repeated names.
    good = module.GoodFrames("table", f"({WHERE}) and source not like '%twice%'")
    names = [name for name, _ in module.wds.WebDataset(good.shards, shardshuffle=False).compose(good)]
    assert sorted(names) == ["C.jpg", "a.0001.jpg", "a.0002.jpg", "b.png"]  # endings as in webdataset
    assert good.skipped == 3
    one = module.GoodFrames("table", "member = 'a.0002.jpg'")
    assert [name for name, _ in module.wds.WebDataset(one.shards, shardshuffle=False).compose(one)] == [
        "a.0002.jpg"
    ]


def test_datasets_gives_each_frame_with_its_scores(odd, monkeypatch):
    place, shards = odd
    monkeypatch.chdir(place)
    frames = example("hf_datasets").good_frames("table", WHERE)
    assert sorted(frames["name"]) == read_by_most(place, shards)
    assert all(frame["image"].size == (384, 384) and frame["dbcnn"] > 0 for frame in frames)


def test_ray_data_gives_each_frame(odd, local_ray, monkeypatch):
    place, shards = odd
    monkeypatch.chdir(place)
    module = example("ray_data")
    ray.cloudpickle.register_pickle_by_value(module)  # workers of this Ray cannot import it
    frames = module.good_frames("table", WHERE).take_all()
    assert sorted(frame["name"] for frame in frames) == read_by_most(place, shards)
    assert {frame["image"].shape for frame in frames} == {(224, 224, 3)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_page_gives_pytorch_each_frame_once_whatever_the_workers(odd, workers):
    place, shards = odd
    loader = "DataLoader(frames, "
    script = script_of_the_page("torch").replace(loader, f"{loader}num_workers={workers}, ")
    assert f"num_workers={workers}" in script
    outcome = run([sys.executable, "-c", script], place)
    assert outcome.status == 0, outcome.printed
    assert sorted(re.findall(r"'([^']+)'", outcome.out)) == sorted(shards["00000.tar"])


def test_the_page_gives_webdataset_members_by_their_whole_names(odd):
    place, shards = odd
    outcome = run([sys.executable, "-c", script_of_the_page("webdataset")], place)
    assert outcome.status == 0, outcome.printed
    names = [line.split()[0].lower() for line in outcome.out.splitlines()]
    assert sorted(names) == sorted(name.lower() for name in shards["00000.tar"])


@pytest.mark.parametrize("name", ["hf_datasets", "webdataset_loader"])
def test_an_example_reports_skipped_frames_and_how_to_get_them(odd, name):
    place, _ = odd
    where = "timestamp_s is not null"
    outcome = run([sys.executable, f"{ROOT}/examples/{name}.py", "table", where], place)
    assert outcome.status == 0, outcome.printed
    assert outcome.out.startswith("skipped 2 frames that are not in tar")
    assert f'faceq query table "{where}" --export-shards DIR' in outcome.out

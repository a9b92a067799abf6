"""Fixtures of several test modules: real images, one local Ray, one real S3 server."""

import ctypes
import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import skimage
import stand_ins
import torch
from here import score_here
from places import PHOTOS, SHARED
from real_azure import AZURITE, connection_string, real_azure
from real_s3 import free_port, real_s3
from videos import write_video

from faceq.job import graph, lean_ray
from faceq.sources.decode.image import decode
from faceq.stages import scorer
from jobs import demo

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of two processes that busy-wait for the same cores take four times as long.
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the drills at full length: hours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether drills run at full length."""
    return bool(request.config.getoption("--full"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist")


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """Return the memory that a module's tests freed to the system, because Ray kills workers if memory is
    short."""
    yield
    gc.collect()
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # exists in glibc only
    if trim:
        trim(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that tests with the mark `shared` read."""
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def aws() -> dict[str, str]:
    """AWS variables for all processes of the tests. They point to this machine only."""
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "faceq-tests",
        "AWS_SECRET_ACCESS_KEY": "faceq-tests-secret",
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }
    os.environ.update(variables)
    os.environ.pop("AWS_PROFILE", None)
    os.environ.pop("RAY_ADDRESS", None)
    return variables


@pytest.fixture(scope="session", autouse=True)
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> None:
    """datasets sends no request to the hub, and caches in the tests' temporary folder."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hugging_face"))})


@pytest.fixture(scope="session")
def s3(aws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real S3 server with one bucket. Returns the `s3://` URI of the bucket."""
    with real_s3(aws, tmp_path_factory.mktemp("s3")) as uri:
        yield uri


@pytest.fixture(scope="session", autouse=True)
def other_stores(aws: dict[str, str]) -> dict[str, int]:
    """Variables of the stores other than S3 for all processes of the tests. They point to this machine only.
    Returns the ports."""
    ports = {"gcs": free_port(), "azure": free_port(), "hub": free_port()}
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{ports['gcs']}"
    os.environ["NO_GCE_CHECK"] = "true"
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{ports['hub']}"
    os.environ["AZURE_STORAGE_CONNECTION_STRING"] = connection_string(f"http://127.0.0.1:{ports['azure']}")
    return ports


@pytest.fixture(scope="session")
def gcs(other_stores: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Google Cloud Storage server with one bucket. Returns the `gs://` URI of the bucket."""
    real_gcs = pytest.importorskip("real_gcs", reason="the extra gcs is not installed")
    with real_gcs.real_gcs(other_stores["gcs"], tmp_path_factory.mktemp("gcs")) as uri:
        yield uri


@pytest.fixture(scope="session")
def azure(other_stores: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an Azure Blob Storage server with one container. Returns the `az://` URI of the container."""
    pytest.importorskip("azure.storage.blob", reason="the extra azure is not installed")
    if not AZURITE.exists():
        pytest.skip("Azurite is not installed: make azurite")
    with real_azure(other_stores["azure"], tmp_path_factory.mktemp("azure")) as uri:
        yield uri


@pytest.fixture(scope="session")
def local_ray(other_stores: dict[str, int]) -> Iterator[None]:
    """One local Ray for all tests that run a job."""
    # Its workers cannot import modules in tests/support.
    ray.cloudpickle.register_pickle_by_value(stand_ins)
    with lean_ray.few_servers():
        ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def models_loaded_once() -> Iterator[None]:
    """`faceq.score_images` loads the models of the same settings once for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "stages_of", functools.lru_cache(maxsize=4)(scorer.stages_of))
        yield


@pytest.fixture
def light_job(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the jobs of this process score with `stand_ins`."""
    monkeypatch.setattr(graph, "FiqStage", stand_ins.FiqStage)
    monkeypatch.setattr(graph, "QualityStage", stand_ins.QualityStage)


@pytest.fixture
def model_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model cache, empty at first. No mirror is set."""
    monkeypatch.setenv("FACEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACEQ_MODEL_MIRROR", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A sharp portrait, (512, 512, 3) uint8 RGB, with one face of about 100 pixels."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def photos() -> Path:
    """insightface's sample images: six people, a portrait, medical masks without a face."""
    return PHOTOS


@pytest.fixture(scope="session")
def frames_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some of the demo's frames in two tars, a Parquet file, images, and a video."""
    folder = tmp_path_factory.mktemp("frames")
    wanted = ("astronaut-blur", "astronaut-sharp", "group0", "group1", "noface", "small", "broken")
    chosen = [frame for frame in demo.frames(demo.source_faces()) if frame[0].startswith(wanted)]
    demo.write_shards(folder / "tars", iter(chosen))
    names, images = zip(*chosen[:6], strict=True)
    rows = pa.table({"id": names, "image": images, "caption": [f"a photo: {name}" for name in names]})
    pq.write_table(rows, folder / "rows.parquet")
    for photo in ("t1.jpg", "Tom_Hanks_54745.png"):
        (folder / photo).write_bytes((PHOTOS / photo).read_bytes())
    write_video(folder / "clip.mp4", [decode(image, 10_000_000) for image in images])
    return folder


@pytest.fixture(scope="session")
def looked_at(frames_in: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The result table of `frames_in` with the default threshold. It has rows of every status."""
    return score_here(str(frames_in), str(tmp_path_factory.mktemp("looked") / "table"))


@pytest.fixture(scope="session")
def faces_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A photo of six people and one without a face, with all faces; and a portrait of an earlier run with the
    largest one."""
    folder = tmp_path_factory.mktemp("faces")
    for part, names in {"one": ("Tom_Hanks_54745.png",), "six": ("t1.jpg", "mask_blue.jpg")}.items():
        (folder / part).mkdir()
        for name in names:
            (folder / part / name).write_bytes((PHOTOS / name).read_bytes())
    score_here(str(folder / "one"), str(folder / "table"))
    return score_here(str(folder / "six"), str(folder / "table"), faces="all")

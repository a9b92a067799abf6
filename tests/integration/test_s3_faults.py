"""An S3 server that answers SlowDown, resets connections, truncates bodies and is slow: no row is lost,
duplicated or changed.

`tests/drills/test_s3_faults_jobs.py` has whole jobs and more seeds.
"""

import os

import boto3
import pytest
from faulty_s3 import Fault, check_listing, check_reading, check_writing, each_in_turn, proxy, read, upload
from real_s3 import BUCKET

from faceq.sources.frame import Frame
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

SEEDS = range(2)


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch):
    """Use faceq's own retry settings instead of those of the other tests."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)


@pytest.fixture(scope="module")
def uploaded(s3) -> str:
    return upload()


@pytest.fixture(scope="module")
def undisturbed(uploaded) -> list[Frame]:
    frames = read(uploaded, S3Settings())
    assert len(frames) == 150 and all(frame.error is None for frame in frames)
    return frames


# --- reading and writing in this process ---


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_are_the_same_whatever_the_storage_does(seed, uploaded, undisturbed):
    check_reading(seed, uploaded, undisturbed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_listing_in_many_parts_is_complete(seed, uploaded, monkeypatch):
    check_listing(seed, uploaded, monkeypatch)


@pytest.mark.parametrize("fault", ["truncate", "reset", "slow_down", "lost"])
def test_frames_are_the_same_if_every_first_response_fails(fault, uploaded, undisturbed):
    with proxy(each_in_turn(fault)) as (s3, met):
        assert read(uploaded, s3) == undisturbed
    # 63 objects and the listing.
    assert met[fault] >= 63


@pytest.mark.parametrize("name", ["0.tar", "rows.parquet", "90.jpg"])
def test_a_body_that_is_always_truncated_is_a_refusal_not_a_shorter_frame(name, uploaded):
    """It counts as an outage, not as a damaged frame. A partial body is never used as the whole one."""

    def choose(method: str, path: str) -> Fault:
        return "truncate" if method == "GET" and path.split("?", 1)[0].endswith(name) else None

    with proxy(choose) as (s3, met):
        (frame,) = read(f"{uploaded}/{name}", s3)
    assert met["truncate"] >= 5
    assert frame.image is None and frame.refused
    assert frame.frame_index == (0 if name.endswith(".jpg") else BREAK)
    assert "could not be read" in frame.error


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_is_written_completely(seed, s3):
    check_writing(seed, s3)


@pytest.mark.parametrize("fault", ["reset", "slow_down"])
def test_a_file_in_several_parts_arrives_whole(fault, s3):
    content = os.urandom(12 << 20)
    with proxy(each_in_turn(fault)) as (settings, met):
        files = filesystem(s3, settings)
        with files.open(f"{BUCKET}/faults/large-{fault}", "wb", block_size=5 << 20) as file:
            for start in range(0, len(content), 1 << 20):
                file.write(content[start : start + (1 << 20)])
    assert met[fault] >= 4
    stored = boto3.client("s3").get_object(Bucket=BUCKET, Key=f"faults/large-{fault}")["Body"].read()
    assert stored == content

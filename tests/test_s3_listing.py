"""Listing of S3 prefixes side by side: every object once, wherever a listing is cut."""

import random
import string
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from conftest import BUCKET

from faceq import s3_listing
from faceq.config import S3
from faceq.storage import filesystem

LETTERS = f"{string.ascii_letters}{string.digits} !/=%+~-_.äß日😀"


def test_between_two_names_lies_a_third():
    chance = random.Random(0)
    cut = 0
    for _ in range(20_000):
        # Names that share their beginning, as those of a video's frames do.
        start = "".join(chance.choices(LETTERS, k=chance.randrange(4)))
        ends = ("".join(chance.choices(LETTERS, k=chance.randrange(5))) for _ in range(2))
        low, high = sorted(start + end for end in ends)
        if low == high:
            continue
        middle = s3_listing.between(low, high)
        cut += middle is not None
        assert middle is None or low < middle < high
    assert cut > 5_000


@pytest.mark.parametrize(
    ("low", "high", "middle"),
    [
        ("in/000999.jpg", "in/\x7f", "in/W"),
        ("in/000999.jpg", "in/1", "in/0W"),
        ("in/a", "in/ab", "in/a1"),
        ("in/a~~", "in/b", "in/a~~?"),
        ("in/ä", "in/ö", None),
    ],
)
def test_names_are_cut_half_way_and_only_where_ascii_has_a_middle(low, high, middle):
    assert s3_listing.between(low, high) == middle


@pytest.fixture(scope="module")
def listed(s3) -> str:
    """A prefix with 423 objects: numbered frames, folders in folders, names that URLs spell out."""
    names = [f"video_{i // 40:04}/{i:06}.jpg" for i in range(400)]
    names += [f"{i} 100%/a+b=c&d.jpg" for i in range(10)] + [f"日本/{i}.png" for i in range(9)]
    names += ["ä/ö.jpg", "日本/😀.jpg", "~~~/~.jpg", "~~~~.png"]
    client = boto3.client("s3")
    with ThreadPoolExecutor(8) as pool:
        for name in names:
            pool.submit(client.put_object, Bucket=BUCKET, Key=f"listed/in/{name}", Body=name.encode())
    # Beside it, with the same beginning: none of it.
    client.put_object(Bucket=BUCKET, Key="listed/in-not.jpg", Body=b"x")
    return f"{BUCKET}/listed/in"


class Counting:
    """s3fs's file system that notes requests for lists. `ignored`: a setting that never reaches S3."""

    def __init__(self, s3: str, ignored: str | None = None):
        self._files = filesystem(s3, S3())
        self._ignored = ignored
        self.starts: list[str] = []

    def __getattr__(self, name):
        return getattr(self._files, name)

    def call_s3(self, method, **settings):
        self.starts.append(settings.get("StartAfter", ""))
        settings.pop(self._ignored, None)
        return self._files.call_s3(method, **settings)


@pytest.mark.parametrize("keys", [1, 7, 50, 422, 423, 1000])
def test_every_object_is_found_with_its_size(monkeypatch, s3, listed, keys):
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", keys)
    files = Counting(s3)
    found = s3_listing.find(files, listed)
    assert found == {name: info["size"] for name, info in files.find(listed, detail=True).items()}
    assert len(found) == 423
    pages = -(-423 // keys)
    # A part that holds no key costs one request, and a last answer may reach beyond its part.
    assert pages <= len(files.starts) <= 3 * pages + 20
    assert len(set(files.starts)) == len(files.starts)


def test_a_server_that_ignores_where_to_start_is_listed_in_its_own_order(monkeypatch, s3, listed):
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", 50)
    files = Counting(s3, ignored="StartAfter")
    assert len(s3_listing.find(files, listed)) == 423
    assert len(files.starts) <= s3_listing.REQUESTS_AT_ONCE


def test_a_bucket_that_is_not_there_is_not_an_empty_one(s3):
    with pytest.raises(FileNotFoundError):
        s3_listing.find(filesystem(s3, S3()), "no-such-bucket/in")


def test_only_answers_to_these_requests_lack_what_nobody_asked_for(s3, listed):
    files = filesystem(s3, S3())
    s3_listing.find(files, listed)
    asked = {"Bucket": BUCKET, "Prefix": "listed/in/ä"}
    (ours,) = files.call_s3("list_objects_v2", StartAfter="listed/in/ä", **asked)["Contents"]
    assert ours == {"Key": "listed/in/ä/ö.jpg", "Size": len("ä/ö.jpg".encode())}
    (whole,) = files.call_s3("list_objects_v2", **asked)["Contents"]
    assert {"Key", "Size", "LastModified", "ETag"} <= whole.keys()

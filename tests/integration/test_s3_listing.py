"""Parallel listing of S3 prefixes: every object occurs once, wherever the listing is split."""

import random
import string
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from real_s3 import BUCKET

from faceq.storage import s3_listing
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings

LETTERS = f"{string.ascii_letters}{string.digits} !/=%+~-_.äß日😀"


def test_there_is_a_name_between_any_two_names():
    chance = random.Random(0)
    for _ in range(20_000):
        # Names with a common prefix, such as those of a video's frames.
        start = "".join(chance.choices(LETTERS, k=chance.randrange(4)))
        ends = ("".join(chance.choices(LETTERS, k=chance.randrange(5))) for _ in range(2))
        low, high = sorted(start + end for end in ends)
        if low == high:
            continue
        middle = s3_listing.between(low, high)
        assert middle is not None and low < middle < high


@pytest.mark.parametrize(
    ("low", "high", "middle"),
    [
        ("in/000999.jpg", "in/\x7f", "in/W"),
        ("in/000999.jpg", "in/1", "in/0W"),
        ("in/a", "in/ab", "in/a1"),
        ("in/a~~", "in/b", "in/a~~?"),
        ("in/ä", "in/ö", "in/ä?"),
        ("Fotos/Müller/000999.jpg", "Fotos/Müller/\x7f", "Fotos/Müller/W"),
        ("in/a", "in/a\x01", None),
    ],
)
def test_names_are_split_about_half_way_at_ascii_letters(low, high, middle):
    assert s3_listing.between(low, high) == middle


@pytest.fixture(scope="module")
def listed(s3) -> str:
    """A prefix with 423 objects: numbered frames, nested folders, and names that must be escaped in URLs."""
    names = [f"video_{i // 40:04}/{i:06}.jpg" for i in range(400)]
    names += [f"{i} 100%/a+b=c&d.jpg" for i in range(10)] + [f"日本/{i}.png" for i in range(9)]
    names += ["ä/ö.jpg", "日本/😀.jpg", "~~~/~.jpg", "~~~~.png"]
    client = boto3.client("s3")
    with ThreadPoolExecutor(8) as pool:
        for name in names:
            pool.submit(client.put_object, Bucket=BUCKET, Key=f"listed/in/{name}", Body=name.encode())
    # Next to the prefix, with the same beginning, but not below it.
    client.put_object(Bucket=BUCKET, Key="listed/in-not.jpg", Body=b"x")
    return f"{BUCKET}/listed/in"


class Counting:
    """s3fs's file system that records list requests. `ignored`: a parameter that is not sent to S3."""

    def __init__(self, s3: str, ignored: str | None = None):
        self._files = filesystem(s3, S3Settings())
        self._ignored = ignored
        self.starts: list[tuple[str | None, str | None]] = []

    def __getattr__(self, name):
        return getattr(self._files, name)

    async def _call_s3(self, method, **settings):
        self.starts.append((settings.get("StartAfter"), settings.get("ContinuationToken")))
        settings.pop(self._ignored, None)
        return await self._files._call_s3(method, **settings)


@pytest.mark.parametrize("keys", [1, 7, 50, 422, 423, 1000])
def test_every_object_is_found_with_its_size(monkeypatch, s3, listed, keys):
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", keys)
    files = Counting(s3)
    found = s3_listing.find(files, listed)
    assert found == {name: info["size"] for name, info in files.find(listed, detail=True).items()}
    assert len(found) == 423
    pages = -(-423 // keys)
    # A part without keys costs one request, and the last response may extend beyond its part.
    assert pages <= len(files.starts) <= 3 * pages + 8 * s3_listing.REQUESTS_AT_ONCE
    assert len(set(files.starts)) == len(files.starts)


def test_a_server_that_ignores_start_after_is_listed_completely(monkeypatch, s3, listed):
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", 50)
    assert len(s3_listing.find(Counting(s3, ignored="StartAfter"), listed)) == 423


def test_a_missing_bucket_is_not_an_empty_bucket(s3):
    with pytest.raises(FileNotFoundError):
        s3_listing.find(filesystem(s3, S3Settings()), "no-such-bucket/in")


def test_a_server_with_another_sort_order_is_listed_completely(monkeypatch, s3, listed):
    """The server sorts capital and small letters together. A part would end before keys that sort later but
    belong to it."""
    names = sorted((f"{BUCKET}/o/{a}{b}.jpg" for a in "aBcDeFgH" for b in range(9)), key=str.lower)

    class CaseInsensitive(Counting):
        async def _call_s3(self, method, Bucket, Prefix, MaxKeys=50, StartAfter="", ContinuationToken=""):  # noqa: N803
            keys = [name.removeprefix(f"{Bucket}/") for name in names]
            after = (ContinuationToken or StartAfter).lower()
            left = [key for key in keys if key.lower() > after]
            self.starts.append((StartAfter, ContinuationToken))
            found = [{"Key": key, "Size": 1} for key in left[:MaxKeys]]
            more = {"NextContinuationToken": found[-1]["Key"]} if len(left) > MaxKeys else {}
            return {"Contents": found, "IsTruncated": bool(more), **more}

    for keys in range(1, 30):
        monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", keys)
        assert s3_listing.find(CaseInsensitive(s3), f"{BUCKET}/o") == dict.fromkeys(names, 1)


def test_a_bucket_may_be_called_by_its_access_point(s3):
    """The name contains a slash. The text after it is not a prefix."""
    asked = []

    class Asked(Counting):
        async def _call_s3(self, method, Bucket, Prefix, **_):  # noqa: N803
            asked.append((Bucket, Prefix))
            return {"IsTruncated": False}

    point = "arn:aws:s3:us-west-2:123456789012:accesspoint/frames"
    assert s3_listing.find(Asked(s3), f"{point}/in/deep") == {}
    assert asked == [(point, "in/deep/")]


def test_other_list_requests_still_get_all_fields(s3, listed):
    files = filesystem(s3, S3Settings())
    s3_listing.find(files, listed)
    asked = {"Bucket": BUCKET, "Prefix": "listed/in/ä", "StartAfter": "listed/in/ä"}
    (whole,) = files.call_s3("list_objects_v2", **asked)["Contents"]
    assert {"Key", "Size", "LastModified", "ETag"} <= whole.keys()


def test_a_listing_reads_only_names_sizes_and_etags(monkeypatch, s3, listed):
    kept = []

    class Seen(Counting):
        async def _call_s3(self, method, **settings):
            answer = await super()._call_s3(method, **settings)
            kept.extend(answer["Contents"])
            return answer

    s3_listing.find(Seen(s3), listed)
    assert len(kept) == 423 and all(each.keys() == {"Key", "Size", "ETag"} for each in kept)

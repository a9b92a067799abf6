"""S3 errors are told apart by S3's own codes, whatever s3fs translates them to."""

import errno
import io
import random
import re
import tarfile

import botocore.exceptions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs.errors import ERROR_CODE_TO_EXCEPTION, translate_boto_error
from small_s3 import BUCKET, Asked, Refusal, small_s3
from videos import write_numbered

from faceq.cli import main
from faceq.sources import read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.storage.faults import fault_of
from faceq.table.schema import BREAK

IN = f"s3://{BUCKET}/in"


@pytest.fixture(autouse=True)
def few_attempts(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def is_read(asked: Asked) -> bool:
    """Whether the request reads an object. (The listing also requests the name of the folder as an
    object.)"""
    return asked.key is not None and "." in asked.key


def translated(code: str, status: int = 400) -> OSError:
    answer = {"Error": {"Code": code, "Message": "words"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(answer, "GetObject"))


def test_only_an_object_without_a_first_byte_is_empty():
    kinds = {code: fault_of(translated(code)).kind for code in ERROR_CODE_TO_EXCEPTION}
    assert len(kinds) > 90
    named = {kind: {code for code, each in kinds.items() if each == kind} for kind in set(kinds.values())}
    assert named["empty"] == {"InvalidRange", "416"}
    assert named["missing"] == {"NoSuchKey", "NoSuchVersion", "404"}
    assert named["archived"] == {"InvalidObjectState"}
    invalid = [code for code in kinds if translated(code).errno == errno.EINVAL]
    assert len(invalid) > 35 and {kinds[code] for code in invalid} == {"empty", "outage"}
    assert {kinds[code] for code in ("AccessDenied", "403", "AllAccessDisabled")} == {"forbidden"}
    assert {kinds[code] for code in ("ExpiredToken", "NoSuchBucket", "SlowDown")} == {"outage"}
    assert fault_of(translated("ACodeOfTomorrow")).kind == "outage"


def test_damaged_content_is_not_a_storage_fault():
    assert fault_of(pa.ArrowInvalid("no Parquet")) is None
    assert fault_of(OSError("no number")) is None
    assert fault_of(ValueError("x")) is None


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refusal(403, "InvalidObjectState", more="<StorageClass>GL</StorageClass>"), "archived.*GL: restore"),
        (Refusal(403, "AccessDenied", "you may not kms:Decrypt"), "access denied: .*KMS key"),
        (Refusal(400, "KMS.DisabledException"), "could not be read: .*KMS key"),
        (Refusal(403, "AccessDenied"), "access denied: .*check permissions.*s3.requester_pays"),
        (Refusal(400, "AuthorizationHeaderMalformed", more="<Region>r-2</Region>"), "in r-2: set s3.region"),
        (Refusal(301, "PermanentRedirect"), "another region or store: set s3.region"),
        (Refusal(400, "InvalidToken"), "could not be read: .*InvalidToken.*: renew or correct"),
        (Refusal(403, "RequestTimeTooSkewed"), "could not be read: .*clock"),
        (Refusal(503, "SlowDown"), "busy or down"),
        (Refusal(400, "InvalidRequest", "encryption's parameters"), "could not be read: encryption"),
    ],
)  # fmt: skip
def test_a_picture_that_the_storage_refuses_says_what_it_is_and_what_to_do(refusal, said):
    with small_s3({"in/a.jpg": b"x"}, lambda asked: refusal if is_read(asked) else None) as store:
        (frame,) = read_shards(list_shards([IN], store.settings), store.settings)
    assert frame.refused and frame.image is None
    assert re.search(said, frame.error), frame.error


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [random.Random(0).randbytes(1 << 20)]}), out)
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, bytes]:
    video = write_numbered(tmp_path_factory.mktemp("v") / "v.mp4").read_bytes()
    return {"in/t.tar": tar(), "in/p.parquet": parquet(), "in/v.mp4": video, "in/x.jpg": b"\xff\xd8\xff"}


def frames_of(objects: dict[str, bytes], refuse=lambda asked: None) -> dict[str, list[Frame]]:
    with small_s3(objects, refuse) as store:
        found = list_shards([IN], store.settings)
        return {
            shard.source.rpartition("/")[2]: list(read_shards([shard], store.settings)) for shard in found
        }


@pytest.mark.parametrize("code", ["InvalidToken", "TokenRefreshRequired", "InvalidRequest", "400"])
@pytest.mark.parametrize("methods", [("GET",), ("GET", "HEAD")])
def test_an_outage_is_a_refusal_of_every_kind_of_source(shards, code, methods):
    def refuse(asked: Asked) -> Refusal | None:
        return Refusal(400, code) if is_read(asked) and asked.method in methods else None

    for name, (frame,) in frames_of(shards, refuse).items():
        assert frame.refused and frame.image is None, name
        assert frame.frame_index == (0 if name.endswith(".jpg") else BREAK)
        assert frame.error.startswith("could not be read: ") and f"({code})" in frame.error


def test_an_object_without_bytes_is_empty_not_refused(shards):
    for name, (frame,) in frames_of(dict.fromkeys(shards, b"")).items():
        assert not frame.refused, name
        assert frame.frame_index == (0 if name.endswith(".jpg") else BREAK)
        assert frame.image == b"" if name.endswith(".jpg") else re.search("empty|size is 0", frame.error)


def test_expired_tokens_stop_the_job(light_job, tmp_path, capsys, monkeypatch):
    """The server lists forty keys and answers each read with 400 InvalidToken."""
    objects = {f"in/{i:02}.jpg": b"\xff\xd8\xff" for i in range(40)}
    with small_s3(objects, lambda asked: Refusal(400, "InvalidToken") if is_read(asked) else None) as store:
        job = tmp_path / "job.yaml"
        job.write_text(f"s3: {{endpoint_url: '{store.settings.endpoint_url}'}}\n")
        assert main.main(["score", IN, "--config", str(job), "--out", str(tmp_path / "table")]) == 1
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if line.startswith("faceq: ")][-1]  # Ray may print more
    assert "the storage refused 40 reads in a row" in said and "InvalidToken" in said


# --- requests ---


def test_a_shard_of_its_own_name_costs_no_more_requests_than_reading_it(shards):
    with small_s3(shards) as store:
        found = list_shards([IN], store.settings)
        for shard in found:
            store.asked.clear()
            list(read_shards([shard], store.settings))
            asked = [each.method for each in store.reads()]
            expected = {"picture": ["GET"], "tar": ["HEAD", "GET"], "video": ["HEAD", "GET"]}
            if shard.kind == "parquet":
                # The footer, then the only row group.
                assert asked == ["HEAD", "GET", "GET"]
            else:
                assert asked == expected[shard.kind], shard.source


def test_requests_to_a_public_bucket_are_not_signed(shards, monkeypatch):
    with small_s3(shards, anonymous=True) as store:
        list(read_shards(list_shards([IN, f"s3://{BUCKET}/in/*.tar"], store.settings), store.settings))
    assert store.asked and not [asked for asked in store.asked if "authorization" in asked.headers]
    with small_s3(shards) as store:
        list_shards([IN], store.settings)
    assert all("authorization" in asked.headers for asked in store.asked)


def test_every_request_says_that_the_requester_pays(shards):
    with small_s3(shards, requester_pays=True) as store:
        list(read_shards(list_shards([IN, f"s3://{BUCKET}/in/*.tar"], store.settings), store.settings))
    assert {(asked.method, asked.key is None) for asked in store.asked} == {
        ("GET", True),
        ("GET", False),
        ("HEAD", False),
    }
    assert {asked.headers.get("x-amz-request-payer") for asked in store.asked} == {"requester"}

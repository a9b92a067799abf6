"""Files behind URLs, on a web server that behaves well or badly."""

import csv
import io
import re
import tarfile

import pytest
from PIL import Image
from web import GOOD, Asked, Manners, Web, web

from faceq.config import Limits
from faceq.errors import StorageError, UsageError
from faceq.sources import read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.storage import http_requests
from faceq.storage.filesystem import absolute, filesystem, path_of
from faceq.storage.outputs import check_output
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

S3 = S3Settings()
SIGNATURE = "X-Amz-Expires=60&X-Amz-Signature=5ec4e7"
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_requests, "_FIRST_PAUSE_S", 0.01)


def picture(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for index in range(5):
            info = tarfile.TarInfo(f"{index}.png")
            info.size = len(picture(index))
            archive.addfile(info, io.BytesIO(picture(index)))
    return out.getvalue()


FILES = {"a.jpg": picture(1), "t.tar": tar(), "50% of it.jpg": picture(3), "empty.jpg": b""}


def read(urls: list[str], **limits: int) -> list[Frame]:
    return list(read_shards(list_shards(urls, S3), S3, limits=Limits(**limits)))


def read_manifest(tmp_path, server: Web, names: list[str]) -> dict[str, Frame]:
    """The frames of URLs in a manifest, by the URL without its address."""
    path = tmp_path / "m.csv"
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["uri"], *([server.url(name)] for name in names)])
    frames = read_shards(list_shards([], S3, [str(path)]), S3)
    return {frame.source.removeprefix(f"{server.address}/"): frame for frame in frames}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_tar_is_the_same_however_the_server_sends_it(ranges, chunked):
    manners = Manners(ranges=ranges, chunked=chunked and not ranges)
    with web(FILES, lambda asked: manners) as server:
        frames = read([server.url("t.tar")])
    assert [frame.image for frame in frames] == [picture(index) for index in range(5)]


def test_names_are_sent_as_urls_and_recorded_as_given():
    with web(FILES) as server:
        (frame,) = read([server.url("50%25 of it.jpg")])
        assert frame.source == server.url("50%25 of it.jpg") and frame.image == picture(3)
        (frame,) = read([server.url("empty.jpg")])
        assert frame.image == b""
        (frame,) = read([server.url("a.jpg?size=large#top")])
        assert frame.image == picture(1) and server.asked[-1].query == "size=large"


BAD = {
    "gone.jpg": (Manners(status=410, body=b""), "not found: there is no such file or object"),
    "loop.jpg": (Manners(status=302, headers={"Location": "/loop.jpg"}), "redirects more than 10 times"),
    "private.jpg": (Manners(status=403, body=EXPIRED), "access denied: .*the file is not public"),
    f"old.jpg?{SIGNATURE}": (
        Manners(status=403, body=EXPIRED),
        "access denied: HTTP 403.*Request has expired: the signature of the URL has expired.*sign",
    ),
    "cut.jpg": (Manners(cut=50, body=picture(5)), "could not be read: .*received 50 of"),
    "broken.jpg": (Manners(status=500), "HTTP 500.*busy or down"),
    "tomorrow.jpg": (Manners(status=429, headers={"Retry-After": "86400"}), "asks to wait 86400 s"),
    "other.jpg": (Manners(status=302, headers={"Location": "ftp://h/x"}), "its redirect is not valid"),
    "other-part.jpg": (
        Manners(status=206, headers={"Content-Range": "bytes 5-6/9"}, body=b"xx"),
        "other bytes of the file",
    ),
}


def test_each_bad_url_of_a_manifest_is_a_row_that_says_why(tmp_path, subtests):
    """And the URLs beside it are read."""
    by_path = {name.partition("?")[0]: manners for name, (manners, _) in BAD.items()}
    with web(FILES, lambda asked: by_path.get(asked.path, GOOD)) as server:
        frames = read_manifest(tmp_path, server, ["a.jpg", *BAD, "404.jpg", "t.tar"])
    assert frames["a.jpg"].image == picture(1)
    assert frames["t.tar"].image == picture(4)  # its last
    assert frames["404.jpg"].error.startswith("not found") and frames["404.jpg"].unseen
    for name, (_, said) in BAD.items():
        with subtests.test(name):
            frame = frames[name.partition("?")[0]]  # a signature is not recorded
            assert frame.image is None and frame.refused
            assert re.search(said, frame.error), frame.error
            assert "5ec4e7" not in frame.error


def test_a_signature_is_sent_and_not_recorded():
    with web(FILES) as server:
        signed = server.url(f"a.jpg?id=7&{SIGNATURE}")
        (shard,) = list_shards([signed], S3)
        assert (shard.source, shard.path) == (server.url("a.jpg?id=7"), signed)
        (frame,) = read([signed])
        assert frame.source == server.url("a.jpg?id=7") and frame.image == picture(1)
        assert {asked.query for asked in server.asked} == {f"id=7&{SIGNATURE}"}
    assert absolute("https://h/a?sv=1&sr=b&sig=x%3D&page=2") == "https://h/a?page=2"
    assert path_of("https://h/a?sig=x") == "https://h/a?sig=x"


def test_a_password_in_a_url_is_refused():
    with pytest.raises(UsageError, match="contains a key"):
        filesystem("https://me:secret@host/a.jpg", S3)


def test_no_request_is_sent_during_a_pause_that_the_host_asked_for(tmp_path):
    """One busy file holds up the other requests to the host, too."""

    def manners(asked: Asked) -> Manners:
        busy = asked.path == "a.jpg" and asked.number < 2
        return Manners(status=429, headers={"Retry-After": "1"}) if busy else GOOD

    with web({f"{i}.jpg": picture(i) for i in range(40)} | FILES, manners) as server:
        frames = read_manifest(tmp_path, server, ["a.jpg", *(f"{i}.jpg" for i in range(40))])
        assert not [frame.error for frame in frames.values() if frame.error]
        tries = [asked.at for asked in server.asked if asked.path == "a.jpg"]
        assert len(tries) == 3 and min(tries[1] - tries[0], tries[2] - tries[1]) >= 1
        # Those that were on their way when the first response came are not counted.
        in_pause = [a for a in server.asked if tries[0] + 0.2 < a.at < tries[1] - 0.05]
        assert in_pause == []


def test_connections_to_a_host_are_few(tmp_path):
    names = [f"{i}.jpg" for i in range(48)]
    with web({name: picture(1) for name in names}, lambda asked: Manners(pause_s=0.05)) as server:
        frames = read_manifest(tmp_path, server, names)
        assert len(frames) == 48 and not any(frame.error for frame in frames.values())
        assert 2 <= server.most_at_once <= http_requests.CONNECTIONS_PER_HOST


def test_a_broken_connection_is_tried_again(tmp_path):
    def manners(asked: Asked) -> Manners:
        faults = (Manners(cut=10), Manners(status=503), Manners(status=408))
        return faults[asked.number] if asked.number < len(faults) else GOOD

    with web(FILES, manners) as server:
        frames = read_manifest(tmp_path, server, ["a.jpg", "t.tar"])
    assert not [frame.error for frame in frames.values() if frame.error]


def test_a_file_that_is_replaced_during_the_read_is_not_mixed():
    versions = [tar(), tar()[::-1]]

    def manners(asked: Asked) -> Manners:
        return Manners(body=versions[min(asked.number, 1)])

    with web({}, manners) as server:
        file = filesystem(server.address, S3).open(server.url("t.tar"))
        with pytest.raises(OSError, match="replaced during the read"):
            file.read()


def test_no_more_than_the_limits_is_read():
    with web({"large.jpg": picture(1) + bytes(40 << 20), **FILES}, lambda a: Manners(ranges=False)) as server:
        (frame,) = read([server.url("large.jpg")], frame_bytes=1 << 20)
        assert "limits.frame_bytes" in frame.error and frame.image is None
        (frame,) = read([server.url("t.tar")], temporary_bytes=1000)
        assert frame.frame_index == BREAK and "raise limits.temporary_bytes" in frame.error


def test_a_web_server_is_neither_listed_nor_written_to():
    with web(FILES) as server:
        for url in (server.url("folder/"), server.url("*.jpg")):
            with pytest.raises(UsageError, match="a web server lists no folders"):
                list_shards([url], S3)
        with pytest.raises(UsageError, match="faceq only reads https://"):
            check_output(server.url("out.csv"), S3)
    with pytest.raises(StorageError, match="cannot be listed"):
        list_shards(["http://127.0.0.1:9/a.jpg"], S3)

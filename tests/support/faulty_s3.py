"""A proxy to the S3 server on which requests fail as they do on S3, and 150 frames on that server."""

import contextlib
import http.client
import io
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import boto3
import pyarrow as pa
import pyarrow.dataset as pds
import pytest
from face_shards import face_shards
from real_s3 import BUCKET
from serving import QuietServer, serving

from faceq.sources import read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.storage import s3_listing
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>1</RequestId></Error>"
)

FORBIDDEN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Access Denied.</Message></Error>"
)

Fault = str | None
"""slow_down, forbidden, reset (before the server gets the request), lost (after the server handled it),
truncate, delay, or none."""


def by_chance(seed: int) -> Callable[[str, str], Fault]:
    """5% of requests get a 503, 2% a connection reset (half of them after the request was handled), 1% a
    truncated body, and 5% a delay."""
    rng = random.Random(seed)
    kinds = ("slow_down", "reset", "lost", "truncate", "delay", None)
    lock = threading.Lock()

    def choose(method: str, path: str) -> Fault:
        with lock:
            return rng.choices(kinds, (5, 1, 1, 1, 5, 87))[0]

    return choose


def each_in_turn(*faults: Fault) -> Callable[[str, str], Fault]:
    """The first requests for each object fail, each with the next kind of fault."""
    seen: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()

    def choose(method: str, path: str) -> Fault:
        with lock:
            seen[method, path] += 1
            index = seen[method, path] - 1
        return faults[index] if index < len(faults) else None

    return choose


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests unchanged. It keeps the `Host` that the client signed, because the signature covers
    it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def _pass_on(self) -> None:
        fault = self.server.choose(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "reset":
            return self._drop(fault)
        if fault in ("slow_down", "forbidden"):
            self.server.met[fault] += 1
            status, said = (503, SLOW_DOWN) if fault == "slow_down" else (403, FORBIDDEN)
            return self._answer(status, [("Content-Type", "application/xml")], said, len(said))
        if fault == "delay":
            self.server.met[fault] += 1
            time.sleep(0.3)
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lost":
            return self._drop(fault)
        length = int(answer.getheader("Content-Length") or len(content))
        if fault == "truncate" and content:
            self.server.met[fault] += 1
            content = content[: len(content) // 2]
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _OF_THE_CONNECTION]
        self._answer(answer.status, headers, content, length)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.close_connection = self.close_connection or len(content) < length

    def _drop(self, fault: str) -> None:
        self.server.met[fault] += 1
        # With a linger time of 0, closing the socket resets the connection.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.wfile = io.BytesIO()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


_OF_THE_CONNECTION = ("content-length", "connection", "transfer-encoding", "keep-alive")


class _Server(QuietServer):
    def __init__(self, upstream: str, choose: Callable[[str, str], Fault]):
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.upstream = upstream
        self.choose = choose
        self.met: Counter[str] = Counter()


@contextlib.contextmanager
def proxy_to(address: str, choose: Callable[[str, str], Fault]) -> Iterator[tuple[str, Counter[str]]]:
    """Start a faulty proxy to a server of any store. Returns its address, and a count of each fault."""
    server = _Server(address.removeprefix("http://"), choose)
    with serving(server) as proxied:
        yield proxied, server.met


@contextlib.contextmanager
def proxy(choose: Callable[[str, str], Fault]) -> Iterator[tuple[S3Settings, Counter[str]]]:
    """Start a faulty proxy to the S3 server. Returns settings that use it, and a count of each fault."""
    with proxy_to(os.environ["AWS_ENDPOINT_URL"], choose) as (address, met):
        yield S3Settings(endpoint_url=address), met


def upload() -> str:
    client = boto3.client("s3")
    for name, data in face_shards(150, 30).items():
        client.put_object(Bucket=BUCKET, Key=f"faults/in/{name}", Body=data)
    return f"s3://{BUCKET}/faults/in"


def read(uri: str, s3: S3Settings) -> list[Frame]:
    return list(read_shards(list_shards([uri], s3), s3))


def check_reading(seed: int, uploaded: str, undisturbed: list[Frame]) -> None:
    with proxy(by_chance(seed)) as (s3, met):
        assert read(uploaded, s3) == undisturbed
    assert met


def check_listing(seed: int, uploaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list_shards([uploaded], S3Settings())
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", 2)
    with proxy(by_chance(200 + seed)) as (s3, met):
        assert list_shards([uploaded], s3) == whole
    assert len(whole) == 63 and met


def check_writing(seed: int, s3: str) -> None:
    """Check writing: rows with the calls of the job's write tasks, and the run record as in the driver."""
    columns = pa.schema([field for field in SCHEMA if field.name in ("frame_id", "source", "status")])
    rows = [{"frame_id": i, "source": f"s{i}", "status": ("scored", "no_face")[i % 2]} for i in range(400)]
    with proxy(by_chance(100 + seed)) as (settings, _):
        table = Table(f"{s3}/faults/written{seed}", settings)
        run = Run("r", "0", [], {}, {}, started="now")
        table.save(run)
        for part in range(0, 400, 40):
            pds.write_dataset(
                pa.Table.from_pylist(rows[part : part + 40], schema=columns),
                table.path,
                filesystem=table.arrow_files,
                partitioning=["status"],
                partitioning_flavor="hive",
                basename_template=f"{part}-{{i}}.parquet",
                format="parquet",
                existing_data_behavior="overwrite_or_ignore",
            )
        table.save(run)
        assert table.frame_ids().tolist() == list(range(400))
    # Reading without the proxy gives the same: the proxy showed the stored content.
    assert Table(table.uri, S3Settings()).frame_ids().tolist() == list(range(400))

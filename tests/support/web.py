"""A small web server over a dict, with part requests, that can behave as bad servers do."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from serving import QuietServer, serving


@dataclass(frozen=True)
class Manners:
    """How the server answers one request.

    status: instead of 200 or 206. headers: further ones. body: instead of the file. ranges: whether parts are
    sent. cut: the body ends after so many bytes. pause_s: before the response. chunked: the size is not told.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    ranges: bool = True
    cut: int | None = None
    pause_s: float = 0
    chunked: bool = False


GOOD = Manners()


@dataclass
class Asked:
    """A request. number: how many requests for this path there were before. at: the time, seconds."""

    path: str
    query: str
    headers: dict[str, str]
    number: int
    at: float


@dataclass
class Web:
    """A running server. most_at_once: the maximum number of requests that were answered at the same time."""

    files: dict[str, bytes]
    manners: Callable[[Asked], Manners]
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@contextlib.contextmanager
def web(
    files: dict[str, bytes], manners: Callable[[Asked], Manners] = lambda asked: GOOD, port: int = 0
) -> Iterator[Web]:
    """Serve these files, by their paths without the first slash. `port`: 0: any."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.web = Web(files, manners)
    with serving(server) as server.web.address:
        yield server.web


class _Server(QuietServer):
    web: Web

    def __init__(self, *rest: object):
        super().__init__(*rest)  # type: ignore[arg-type]
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.now = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        server = self.server
        parts = urlsplit(self.path)
        path = unquote(parts.path[1:])
        with server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(path, parts.query, headers, server.seen[path], time.monotonic())
            server.web.asked.append(asked)
            server.seen[path] += 1
            server.now += 1
            server.web.most_at_once = max(server.web.most_at_once, server.now)
        try:
            self._answer(asked, server.web.manners(asked))
        finally:
            with server.lock:
                server.now -= 1

    def do_HEAD(self) -> None:
        self.send_error(405)  # as for a URL that is signed for GET

    def _answer(self, asked: Asked, manners: Manners) -> None:
        time.sleep(manners.pause_s)
        content = manners.body if manners.body is not None else self.server.web.files.get(asked.path)
        status, headers = manners.status or 200, dict(manners.headers)
        if content is None:
            status, content = manners.status or 404, b"<html>there is nothing here</html>"
        elif manners.status is None and manners.ranges and "range" in asked.headers:
            first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
            start, stop = int(first), min(len(content), int(last) + 1 if last else len(content))
            status = 206 if start < len(content) else 416
            place = f"{start}-{stop - 1}" if status == 206 else "*"
            headers.setdefault("Content-Range", f"bytes {place}/{len(content)}")
            headers.setdefault("ETag", f'"{hash(content):x}"')
            content = content[start:stop] if status == 206 else b""
        self.send_response_only(status)
        headers.setdefault("Content-Type", "text/html")  # which is wrong
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header(
            *(("Connection", "close") if manners.chunked else ("Content-Length", str(len(content))))
        )
        self.end_headers()
        self.wfile.write(content[: manners.cut])
        self.close_connection = self.close_connection or manners.chunked or manners.cut is not None

    def log_message(self, *_: object) -> None:
        pass

"""A small S3 server over a dict. It can refuse requests, and records them.

It is for responses that a real server gives rarely or never (expired tokens, archived objects), and for keys
that some servers do not accept (`a/../b`).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from serving import QuietServer, serving

from faceq.storage.settings import S3Settings

BUCKET = "small"


@dataclass(frozen=True)
class Refusal:
    """A response other than 200. more: further elements of S3's error."""

    status: int
    code: str
    message: str = "said by the server"
    more: str = ""


@dataclass
class Asked:
    """A request. key: None for a list request."""

    method: str
    key: str | None
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class SmallS3:
    objects: dict[str, bytes]
    refuse: Callable[[Asked], Refusal | None] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    settings: S3Settings = field(default_factory=S3Settings)

    def reads(self) -> list[Asked]:
        return [each for each in self.asked if each.key is not None]


@contextlib.contextmanager
def small_s3(
    objects: dict[str, bytes],
    refuse: Callable[[Asked], Refusal | None] = lambda asked: None,
    **settings: bool,
) -> Iterator[SmallS3]:
    """Start a server with these objects in BUCKET. `settings`: S3 settings besides its endpoint."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.store = SmallS3(objects, refuse)
    with serving(server) as address:
        server.store.settings = S3Settings(endpoint_url=address, **settings)
        yield server.store


class _Server(QuietServer):
    store: SmallS3


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        # The path as it was sent: urlsplit and unquote keep `..`, unlike servers that normalise paths.
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path[1:]).partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, key or None, query, headers)
        store = self.server.store
        store.asked.append(asked)
        refusal = store.refuse(asked)
        if refusal is None and bucket != BUCKET:
            refusal = Refusal(404, "NoSuchBucket")
        if refusal is not None:
            self._refuse(refusal)
        elif key:
            self._object(store.objects.get(key), headers.get("range"), headers.get("if-match"))
        else:
            self._answer(200, _listed(store.objects, query).encode())

    do_HEAD = do_GET  # noqa: N815

    def _object(self, content: bytes | None, wanted: str | None, known: str | None) -> None:
        if content is None:
            return self._refuse(Refusal(404, "NoSuchKey"))
        tag = _tag(content)
        if known not in (None, tag):
            return self._refuse(Refusal(412, "PreconditionFailed"))
        if not wanted:
            return self._answer(200, content, tag)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            return self._refuse(Refusal(416, "InvalidRange"))
        part = content[int(first) : int(last) + 1 if last else None]
        return self._answer(206, part, tag)

    def _refuse(self, refusal: Refusal) -> None:
        self._answer(
            refusal.status,
            f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message>"
            f"{refusal.more}</Error>".encode(),
        )

    def _answer(self, status: int, body: bytes, tag: str = '"1"') -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", "Mon, 06 Jan 2025 10:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _tag(content: bytes) -> str:
    """The ETag of the current object. Objects are replaced, never changed."""
    return f'"{id(content):x}"'


def _listed(objects: dict[str, bytes], query: dict[str, str]) -> str:
    """The response to ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after") or ""
    names: dict[str, int | None] = {}
    for key in sorted(objects):
        if key.startswith(prefix) and key > after:
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            names[prefix + head + found if found else key] = None if found else len(objects[key])
    page = list(names.items())[: int(query.get("max-keys", 1000))]
    more = len(page) < len(names)
    listed = "".join(
        f"<CommonPrefixes><Prefix>{_coded(name, query)}</Prefix></CommonPrefixes>"
        if size is None
        else f"<Contents><Key>{_coded(name, query)}</Key><ETag>{_tag(objects[name])}</ETag>"
        f"<Size>{size}</Size><LastModified>2025-01-06T10:00:00.000Z</LastModified></Contents>"
        for name, size in page
    )
    token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
        f"<EncodingType>{query.get('encoding-type', '')}</EncodingType>{token}{listed}</ListBucketResult>"
    )


def _coded(name: str, query: dict[str, str]) -> str:
    return quote(name) if query.get("encoding-type") == "url" else escape(name)

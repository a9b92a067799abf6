"""An S3 server that lists millions of objects without storing them.

It runs in its own process, so that tests can measure the memory and CPU time of the listing alone. A page of
a thousand keys takes about a millisecond.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from places import ROOT

from faceq.storage.settings import S3Settings

BUCKET = "many"
PREFIX = "faces/"
_PER_FOLDER = 1000


def key(number: int) -> str:
    """The key of an object. Keys sort like their numbers."""
    return f"{PREFIX}{number // _PER_FOLDER:06}/frame-{number:09}.jpg"


@contextlib.contextmanager
def many_keys(count: int) -> Iterator[S3Settings]:
    """Start a server that lists `count` objects of 1000 bytes in BUCKET under PREFIX. Returns its
    settings."""
    command = [sys.executable, __file__, str(count)]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            yield S3Settings(endpoint_url=f"http://127.0.0.1:{int(server.stdout.readline())}")
        finally:
            server.kill()


def _first_after(name: str, count: int) -> int:
    """The number of the first key after a name."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if key(middle) > name:
            high = middle
        else:
            low = middle + 1
    return low


def _page(query: dict[str, str], count: int) -> bytes:
    prefix = query.get("prefix", "")
    after = query.get("continuation-token") or query.get("start-after") or ""
    start = _first_after(max(prefix, after), count) if PREFIX.startswith(prefix) else count
    stop = min(count, start + int(query.get("max-keys", 1000)))
    if query.get("delimiter"):
        stop = min(stop, start + 1)  # the client only checks whether there is any key
    listed = "".join(f"<Contents><Key>{key(n)}</Key>{_REST}</Contents>" for n in range(start, stop))
    more = f"<NextContinuationToken>{key(stop - 1)}</NextContinuationToken>" if stop < count else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{listed}</ListBucketResult>"
    ).encode()


_REST = (
    "<LastModified>2025-01-06T10:00:00.000Z</LastModified><ETag>&quot;9a0364b9e99bb480dd25e1f0284c8555&quot;"
    "</ETag><Size>1000</Size><StorageClass>STANDARD</StorageClass>"
)
"""What S3 lists for an object besides its key."""


async def _serve(count: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := (await reader.readuntil(b"\r\n\r\n")).decode():
                method, target, _ = request.split("\r\n", 1)[0].split(" ", 2)
                query = dict(parse_qsl(urlsplit(target).query))
                there = method == "GET" and "list-type" in query
                body = _page(query, count) if there else b""
                status = "200 OK" if there else "404 Not Found"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    asyncio.run(_serve(parser.parse_args().count))

"""A hub on this machine with one dataset: the requests of the Hugging Face Hub's API that read files and list
them, with files of some kinds on another address, as on the Hub."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from urllib.parse import parse_qs, quote

from web import Asked, Manners, Web, web

DATASET = "datasets/faceq/tests"
PAGE = 20
"""Number of entries in a part of a listing."""

_LARGE = (".tar", ".parquet")


@contextlib.contextmanager
def hub(port: int = 0, token: str | None = None) -> Iterator[Web]:
    """Start a hub. `files` are those of the dataset. With a token, only requests with it are answered."""

    def manners(asked: Asked) -> Manners:
        start, _, rest = asked.path.partition(f"{DATASET}/")
        if start == "cdn/":  # where signed URLs lead; it gets no token
            stranger = "authorization" not in asked.headers
            return Manners(
                body=server.files[rest], headers={"ETag": '"of-the-cdn"'}, status=None if stranger else 400
            )
        if token is not None and asked.headers.get("authorization") != f"Bearer {token}":
            return Manners(status=401, body=b"Invalid username or password.")
        verb, _, path = rest.partition("/main")
        path = path.removeprefix("/")
        if start == "api/" and verb == "tree":
            return _tree(server, path, parse_qs(asked.query))
        if start == "" and verb == "resolve" and path in server.files:
            # Redirects to another host do not get the token.
            cdn = server.address.replace("127.0.0.1", "localhost") if token else ""
            return _file(path, server.files[path], cdn)
        return Manners(status=404, body=b"Entry not found")

    with web({}, manners, port) as server:
        yield server


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file(path: str, content: bytes, cdn: str) -> Manners:
    if not path.endswith(_LARGE):
        return Manners(body=content, headers={"ETag": f'"{_tag(content)}"', "X-Repo-Commit": "c0ffee"})
    headers = {
        "X-Repo-Commit": "c0ffee",
        "Location": f"{cdn}/cdn/{DATASET}/{quote(path)}",
        "X-Linked-Etag": f'"{_tag(content)}"',
    }
    return Manners(status=302, body=b"", headers=headers)


def _tree(server: Web, folder: str, query: dict[str, list[str]]) -> Manners:
    prefix = f"{folder}/" if folder else ""
    below = sorted(name for name in server.files if name.startswith(prefix))
    if not below and folder:
        return Manners(status=404, body=b'{"error": "not found"}', headers={"X-Error-Code": "EntryNotFound"})
    entries = {}
    for name in below:
        inner = name.removeprefix(prefix).split("/")
        for depth in range(1, len(inner)):
            path = prefix + "/".join(inner[:depth])
            entries[path] = {"type": "directory", "oid": "0", "size": 0, "path": path}
        content = server.files[name]
        entries[name] = {"type": "file", "oid": _tag(content), "size": len(content), "path": name}
        if name.endswith(_LARGE):
            entries[name] |= {"oid": "a-pointer", "lfs": {"oid": _tag(content), "size": len(content)}}
    if query["recursive"] == ["false"]:
        entries = {path: each for path, each in entries.items() if "/" not in path.removeprefix(prefix)}
    start = int(query.get("cursor", ["0"])[0])
    listed = list(entries.values())
    headers = {}
    if len(listed) > start + PAGE:
        here = f"{server.address}/api/{DATASET}/tree/main/{quote(folder)}"
        recursive = query["recursive"][0]
        headers["Link"] = f'<{here}?recursive={recursive}&cursor={start + PAGE}>; rel="next"'
    return Manners(body=json.dumps(listed[start : start + PAGE]).encode(), ranges=False, headers=headers)

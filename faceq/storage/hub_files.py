"""Files of datasets on the Hugging Face Hub, for reading: `hf://datasets/OWNER/NAME/PATH`, or with a revision
`hf://datasets/OWNER/NAME@REVISION/PATH`.

The Hub serves files over HTTP and lists them in JSON
(https://huggingface.co/docs/hub/api, https://huggingface.co/docs/huggingface_hub/guides/hf_file_system).
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import aiohttp

from faceq.errors import UsageError
from faceq.storage.answers import wrong_server
from faceq.storage.http_files import HttpFiles
from faceq.storage.http_requests import attempt
from faceq.storage.object_listing import Page, PagedObjects
from faceq.storage.settings import S3Settings

_HUB = "https://huggingface.co"
_COMMIT = "X-Repo-Commit"
"""A header of every response of the Hub that has a file, or that leads to one."""


def hub_files(s3: S3Settings) -> "HubFiles":
    """The file system of the Hub. The token is that of huggingface_hub: HF_TOKEN, or the file that
    `hf auth login` writes. HF_ENDPOINT is the address of another hub. `s3` has no settings for it."""
    return HubFiles()


class HubFiles(PagedObjects, HttpFiles):
    """A file system whose paths are `datasets/OWNER/NAME/PATH`; the first three parts stand for a bucket."""

    protocol = ("hf",)

    def bucket_and_key(self, path: str) -> tuple[str, str]:
        kind, owner, name, key = [*path.split("/", 3), "", "", ""][:4]
        if kind != "datasets" or not owner or not name:
            raise UsageError(f"hf://{path}: write it as hf://datasets/OWNER/NAME/PATH")
        return f"{kind}/{owner}/{name}", key

    @property
    def more_headers(self) -> Mapping[str, str]:  # type: ignore[override]
        token = _token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def address_of(self, path: str) -> str:
        if _is_listing(path):
            return path
        bucket, key = self.bucket_and_key(path)
        repository, _, revision = bucket.partition("@")
        return f"{_hub()}/{repository}/resolve/{quote(revision or 'main', safe='')}/{quote(key)}"

    def advice(self, path: str, status: int) -> str:
        if status in (401, 403):
            return "set HF_TOKEN, or run `hf auth login`, and check that this account may read the dataset"
        return ""

    async def _send(self, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        answer = await super()._send(path, headers)
        if not _is_listing(path) and not any(_COMMIT in each.headers for each in (*answer.history, answer)):
            answer.close()
            raise _not_hub()
        return answer

    async def head(self, path: str) -> dict[str, Any]:
        return await HttpFiles._info(self, path)

    async def page(
        self, bucket: str, prefix: str, delimiter: str, token: str | None, most: int | None = None
    ) -> Page:
        repository, _, revision = bucket.partition("@")
        folder = prefix.rpartition("/")[0]
        url = token or (
            f"{_hub()}/api/{repository}/tree/{quote(revision or 'main', safe='')}/{quote(folder)}"
            f"?recursive={'false' if delimiter else 'true'}"
        )
        try:
            content, following = await self._listing(url)
        except FileNotFoundError:
            if not folder:
                raise  # there is no such dataset
            return Page([], [], None)
        found = [each for each in content if each["path"].startswith(prefix)]
        objects = [_details(bucket, each) for each in found if each["type"] == "file"]
        folders = [f"{each['path']}/" for each in found if each["type"] == "directory" and delimiter]
        return Page(objects, folders, following)

    def modified(self, path: str, refresh: bool = False) -> datetime:
        """A fixed time: the Hub does not tell when a file was written. DuckDB asks for it to see whether a
        file changed since it was opened."""
        return datetime.fromtimestamp(0, UTC)

    async def delete(self, path: str) -> NoReturn:
        raise UsageError(f"hf://{path}: cannot be deleted: faceq only reads hf://")

    async def _listing(self, url: str) -> tuple[list[dict[str, Any]], str | None]:
        """A part of a listing, and the URL of the next part."""

        async def send() -> tuple[list[dict[str, Any]], str | None]:
            async with await self._send(url, {}) as answer:
                link = answer.links.get("next")
                try:
                    found = json.loads(await answer.read())
                except ValueError:
                    found = None
                if not isinstance(found, list):
                    raise _not_hub()
                return found, None if link is None else str(link["url"])

        return await attempt(send, self._host(url), self._hosts)


def _is_listing(path: str) -> bool:
    """Whether this is the URL of a listing, and not the path of a file."""
    return path.startswith(("https://", "http://"))


def _not_hub() -> OSError:
    return wrong_server("the Hugging Face Hub", "HF_ENDPOINT and the proxies")


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")


def _token() -> str:
    """The token of huggingface_hub; "" if there is none."""
    home = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH", Path(home) / "token"))
    token = os.environ.get("HF_TOKEN", "").strip()
    try:
        return token or path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _details(bucket: str, found: dict[str, Any]) -> dict[str, Any]:
    """An entry of a listing in the form of `PagedObjects.head`, without `LastModified`."""
    tag = (found.get("lfs") or {}).get("oid") or found["oid"]
    return {"name": f"{bucket}/{found['path']}", "size": found["size"], "type": "file", "ETag": tag}

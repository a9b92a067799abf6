"""The file system of gcsfs for Google Cloud Storage, with requests, errors and listings in the form that all
stores share."""

import io
import json
import os
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from gcsfs.core import GCSFile, GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import GoogleAuthError

from faceq.messages.masking import mask
from faceq.storage.answers import START_AGAIN, refusal, wrong_server
from faceq.storage.http_requests import TIMEOUT, Hosts, attempt, failed
from faceq.storage.object_listing import NO_BUCKET, Page, PagedObjects
from faceq.storage.settings import S3Settings

_ADVICE = (
    "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`, and check that this "
    "account may use the bucket"
)
_FIELDS = "kind,name,size,generation,updated,contentType,metadata"
_CANCELLED = 499
"""Status of the response to a cancelled upload."""


def gcs_files(s3: S3Settings) -> "GcsFiles":
    """The file system of Google Cloud Storage. Credentials are the application default credentials of Google;
    without any, requests are not signed. `s3` has no settings for it. STORAGE_EMULATOR_HOST is the address of
    an emulator, which gets no credentials."""
    return GcsFiles(token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None)


class GcsFiles(PagedObjects, GCSFileSystem):
    """The file system of Google Cloud Storage. Object names are not normalised."""

    def __init__(self, **options: Any):
        session = {"timeout": TIMEOUT, "trust_env": True}
        super().__init__(session_kwargs=session, use_listings_cache=False, **options)
        self._hosts = Hosts()

    async def _request(
        self,
        method: str,
        path: str,
        *parts: str,
        headers: Any = None,
        json: Any = None,
        data: Any = None,
        cache_type: Any = None,
        cache_source: Any = None,
        **parameters: Any,
    ) -> tuple[int, Any, Any, bytes]:
        """A request as gcsfs makes it, with the retries and the errors that all stores share."""
        url = self._format_path(path, parts)

        async def send() -> tuple[int, Any, Any, bytes]:
            session = await self._set_session()
            if hasattr(data, "seek"):
                data.seek(0)
            try:
                signed = self._get_headers(headers)
            except (GoogleAuthError, HttpError, NonRetryableError) as error:
                raise refusal(401, f"no access token: {mask(str(error))}", _ADVICE) from None
            wanted = self._get_params(parameters)
            async with session.request(
                method, url, params=wanted, json=json, headers=signed, data=data
            ) as answer:
                content = await answer.read()
                if answer.status >= 400 and answer.status != _CANCELLED:
                    raise _failure(answer, content)
                return answer.status, answer.headers, answer.request_info, content

        return await attempt(send, urlsplit(url).netloc, self._hosts)

    async def _call(self, *parts: Any, json_out: bool = False, **options: Any) -> Any:
        answer = await super()._call(*parts, **options)
        if not json_out:
            return answer
        try:
            found = json.loads(answer[1])
            if str(found["kind"]).startswith("storage#"):
                return found
        except (ValueError, LookupError, TypeError):
            pass
        raise wrong_server("Google Cloud Storage", "STORAGE_EMULATOR_HOST and the proxies")

    async def head(self, path: str) -> dict[str, Any]:
        bucket, _, key = path.partition("/")
        found = await self._call("GET", "b/{}/o/{}", bucket, key, json_out=True, fields=_FIELDS)
        return self._details(bucket, found)

    async def page(
        self, bucket: str, prefix: str, delimiter: str, token: str | None, most: int | None = None
    ) -> Page:
        found = await self._call(
            *("GET", "b/{}/o", bucket),
            json_out=True,
            prefix=prefix or None,
            delimiter=delimiter or None,
            pageToken=token,
            maxResults=most,
            fields=f"kind,items({_FIELDS}),prefixes,nextPageToken",
        )
        objects = [self._details(bucket, each) for each in found.get("items", ())]
        return Page(objects, found.get("prefixes", []), found.get("nextPageToken"))

    async def delete(self, path: str) -> None:
        bucket, key = self.bucket_and_key(path)
        await self._call("DELETE", "b/{}/o/{}", bucket, key)

    def _details(self, bucket: str, found: dict[str, Any]) -> dict[str, Any]:
        return {
            **found,
            "name": f"{bucket}/{found['name']}",
            "size": int(found.get("size", 0)),
            "type": "file",
            "ETag": str(found["generation"]),
            "LastModified": datetime.fromisoformat(found["updated"]),
        }

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        options.setdefault("cache_type", "readahead")
        return GcsFile(self, path, mode, block_size or self.default_block_size, consistency="none", **options)


class GcsFile(GCSFile):
    """An object that is read in one version, or written whole."""

    forced: bool
    buffer: Any

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= min(end, self.size):
            return b""
        version = self.details["generation"]
        try:
            return bytes(
                self.fs.cat_file(self.path, start=start, end=min(end, self.size), generation=version)
            )
        except FileNotFoundError:
            raise refusal(412, "the object was replaced or deleted during the read", START_AGAIN) from None

    def flush(self, force: bool = False) -> None:
        """A small object is written with a single request, which can be repeated."""
        if force and self.offset is None and not self.forced and self.buffer.tell() < self.blocksize:
            self.forced = True
            self._simple_upload()
            return
        super().flush(force)

    def discard(self) -> None:
        """Do not write the object."""
        self.forced = True
        if self.location is not None:
            super().discard()
        self.buffer = io.BytesIO()
        self.closed = True


def _failure(answer: aiohttp.ClientResponse, content: bytes) -> OSError:
    """The error for a response that is not a success."""
    try:
        said = json.loads(content)["error"]
        message = said if isinstance(said, str) else str(said.get("message") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        message = content[:300].decode("utf-8", "replace")
    message = f"HTTP {answer.status}: {message}" if message else ""
    advice = ""
    if answer.status in (401, 403):
        advice = _ADVICE
    elif answer.status == 400 and "requester pays" in message:
        advice = "choose another bucket: faceq pays for no requests to Google Cloud Storage"
    code = NO_BUCKET if answer.status == 404 and "bucket" in message else ""
    return failed(answer.status, answer.headers, message, advice, code)

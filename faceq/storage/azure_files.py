"""The file system of adlfs for Azure Blob Storage, with requests, errors and listings in the form that all
stores share."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DeserializationError,
    HttpResponseError,
)
from azure.storage.blob import BlobBlock
from fsspec.asyn import sync
from fsspec.spec import AbstractBufferedFile

from faceq.errors import UsageError
from faceq.messages.masking import mask
from faceq.messages.one_line import one_line
from faceq.storage.answers import START_AGAIN, refusal, wrong_server
from faceq.storage.http_requests import Hosts, attempt, failed
from faceq.storage.object_listing import NO_BUCKET, Page, PagedObjects
from faceq.storage.settings import S3Settings

_ADVICE = (
    "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING, or "
    "run `az login`, and check that this identity may use the container"
)
_CODES = {"ContainerNotFound": NO_BUCKET, "BlobArchived": "InvalidObjectState"}
"""Codes of Azure as S3 calls them."""

_ONCE = {"retry_total": 0}
"""Azure's own retries begin with a pause of 15 seconds; faceq repeats requests itself."""

T = TypeVar("T")


def azure_files(s3: S3Settings) -> "AzureFiles":
    """The file system of Azure Blob Storage. Account and credentials come from the AZURE_STORAGE variables
    that adlfs reads, or from Azure's default credential. `s3` has no settings for it.

    Raises:
        UsageError: no account is named.
    """
    try:
        return AzureFiles()
    except ValueError as error:
        text = mask(one_line(error)).removeprefix("unable to connect to account for ")
        raise UsageError(f"az://: no account can be used: {text}: {_ADVICE}") from None


class AzureFiles(PagedObjects, AzureBlobFileSystem):
    """The file system of Azure Blob Storage. Blob names are not normalised."""

    protocol = ("az", "abfs", "abfss")

    def __init__(self, **options: Any):
        super().__init__(use_listings_cache=False, **options)
        self._hosts = Hosts()

    async def request(self, send: Callable[[], Awaitable[T]]) -> T:
        """The result of a call of Azure's library, with the retries and the errors that all stores share."""

        async def translated() -> T:
            try:
                return await send()
            except AzureError as error:
                raise _failure(error) from None
            except (AttributeError, LookupError, TypeError, DeserializationError):  # parts are missing
                raise _not_azure() from None

        return await attempt(translated, "", self._hosts)

    def blob(self, path: str) -> Any:
        """Azure's client for a blob."""
        container, _, name = path.partition("/")
        return self.service_client.get_blob_client(container, name)

    async def head(self, path: str) -> dict[str, Any]:
        async def send() -> dict[str, Any]:
            found = await self.blob(path).get_blob_properties(**_ONCE)
            if _is_folder(found):
                raise FileNotFoundError(path)
            return _details(path.partition("/")[0], found)

        return await self.request(send)

    async def page(
        self, bucket: str, prefix: str, delimiter: str, token: str | None, most: int | None = None
    ) -> Page:
        container = self.service_client.get_container_client(bucket)
        wanted = {"name_starts_with": prefix or None, "results_per_page": most, "include": ["metadata"]}

        async def send() -> Page:
            if delimiter:
                pages = container.walk_blobs(delimiter=delimiter, **wanted, **_ONCE).by_page(token)
            else:
                pages = container.list_blobs(**wanted, **_ONCE).by_page(token)
            found = [each async for each in await anext(pages)]
            blobs = [each for each in found if "size" in each and not _is_folder(each)]
            folders = [each["name"] for each in found if "size" not in each]
            return Page([_details(bucket, each) for each in blobs], folders, pages.continuation_token)

        return await self.request(send)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, tag: str | None = None, **_: Any
    ) -> bytes:
        first = start or 0
        known = {"etag": tag, "match_condition": MatchConditions.IfNotModified} if tag else {}

        async def send() -> bytes:
            length = None if end is None else end - first
            body = await self.blob(path).download_blob(first, length, **known, **_ONCE)
            return bytes(await body.readall())

        return await self.request(send)

    async def delete(self, path: str) -> None:
        await self.request(lambda: self.blob(path).delete_blob(**_ONCE))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        options.setdefault("cache_type", "readahead")
        return AzureFile(self, path, mode, block_size or "default", **options)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Write an empty blob."""
        self.open(path, "wb").close()


class AzureFile(AbstractBufferedFile):
    """A blob that is read in one version, or written whole."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        if start >= end:
            return b""
        return bytes(self.fs.cat_file(self.path, start=start, end=end, tag=self.details["ETag"]))

    def _initiate_upload(self) -> None:
        self._blocks: list[BlobBlock] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        data, blob = self.buffer.getvalue(), self.fs.blob(self.path)
        if final and not self._blocks:
            self._request(lambda: blob.upload_blob(data, overwrite=True, **_ONCE))
            return True
        if data:
            block = uuid.uuid4().hex
            self._request(lambda: blob.stage_block(block, data, **_ONCE))
            self._blocks.append(BlobBlock(block))
        if final:
            self._request(lambda: blob.commit_block_list(self._blocks, **_ONCE))
        return True

    def _request(self, send: Callable[[], Awaitable[Any]]) -> None:
        sync(self.fs.loop, self.fs.request, send)

    def discard(self) -> None:
        """Do not write the blob. Azure deletes blocks that belong to no blob."""
        self.forced = self.closed = True


def _is_folder(found: Any) -> bool:
    """Whether this stands for a folder, in an account with a hierarchical namespace."""
    return (found.get("metadata") or {}).get("hdi_isfolder") == "true"


def _details(container: str, found: Any) -> dict[str, Any]:
    return {
        "name": f"{container}/{found['name']}",
        "size": found["size"],
        "type": "file",
        "ETag": found["etag"].strip('"'),
        "LastModified": found["last_modified"],
    }


def _not_azure() -> OSError:
    return wrong_server("Azure Blob Storage", "AZURE_STORAGE_CONNECTION_STRING and the proxies")


def _failure(error: AzureError) -> Exception:
    """An error of Azure's library in the form that all stores share."""
    text = one_line(str(error).split("\n", 1)[0]) or type(error).__name__
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        status = error.status_code
        if status < 400:
            return _not_azure()
        response: Any = error.response
        headers = {} if response is None else response.headers
        advice = _ADVICE if status in (401, 403) else ""
        if status == 412:
            text, advice = "the blob was replaced or deleted during the read", START_AGAIN
        code = getattr(error, "error_code", None)  # set by the library for blobs
        code = str(getattr(code, "value", code) or "")
        return failed(status, headers, text, advice, _CODES.get(code, ""))
    if isinstance(error, ClientAuthenticationError):
        return refusal(401, text, _ADVICE)
    return ConnectionError(mask(text))

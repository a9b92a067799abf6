"""Files behind `http://` and `https://` URLs, for reading.

Only the bytes count: content types are ignored. A server that sends no parts of files sends them whole, up to
the number of bytes that the reader wants.
"""

import asyncio
import errno
import io
import re
import tempfile
import time
import weakref
from collections.abc import Mapping
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import yarl
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.spec import AbstractBufferedFile

from faceq import __version__
from faceq.errors import UsageError
from faceq.storage.answers import START_AGAIN, refusal
from faceq.storage.http_requests import CONNECTIONS_PER_HOST, TIMEOUT, Hosts, attempt, failed
from faceq.storage.object_listing import Note, Objects
from faceq.storage.settings import S3Settings
from faceq.storage.urls import escaped, is_signed

MOST_WHOLE = 1 << 30
"""Maximum size in bytes of a file that is read whole, if the reader names no other limit."""

_IN_MEMORY = 64 << 20
"""Size in bytes up to which a file that has to be read whole is kept in memory, and not in a temporary
file."""

_HEADERS = {"User-Agent": f"faceq/{__version__}", "Accept-Encoding": "identity"}
_REDIRECTS = 10
_CHUNK = 1 << 20
_SLOWEST = 1 << 10
_PATIENCE_S = 60
"""A response that has brought fewer than _SLOWEST bytes per second after _PATIENCE_S seconds is given up."""

_LINKED = "X-Linked-Etag"
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_MOST_OF_A_MESSAGE = 8 << 10
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


def http_files(s3: S3Settings) -> "HttpFiles":
    """The file system of URLs. `s3` has no settings for it. Proxies come from the environment."""
    return HttpFiles()


class HttpFiles(AsyncFileSystem):
    """A file system whose paths are whole URLs. It reads files, and lists nothing."""

    protocol: str | tuple[str, ...] = ("http", "https")
    more_headers: Mapping[str, str] = {}
    """Headers of every request."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._session: aiohttp.ClientSession | None = None
        self._hosts = Hosts()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    def address_of(self, path: str) -> str:
        """The URL of a file."""
        return path

    def advice(self, path: str, status: int) -> str:
        """What the user can do about a response that is not a success; "" if nothing special."""
        if status in (400, 401, 403) and is_signed(path):
            return "the signature of the URL has expired or is not for this file: sign the URL again"
        if status in (401, 403):
            return "the file is not public: give a signed URL, or the URI of its store and credentials"
        return ""

    def _host(self, path: str) -> str:
        return urlsplit(self.address_of(path)).netloc

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_HOST)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=TIMEOUT, headers=_HEADERS, trust_env=True, auto_decompress=True
            )
            weakref.finalize(self, _close, self.loop, self._session)
        return self._session

    async def _get(self, url: str, first: int, stop: int, target: IO[bytes], tag: str | None) -> None:
        """Write the bytes of a file from `first` up to `stop`, or to its end, to `target`. `tag`: the version
        that the file must have."""

        async def send() -> None:
            target.seek(0)
            target.truncate()
            headers = {"Range": f"bytes={first}-{stop - 1}"}
            async with await self._send(url, headers) as answer:
                if tag is not None and _tag_of(answer) not in (None, tag):
                    raise refusal(412, "the file was replaced during the read", START_AGAIN)
                await _copy(answer, target, first, stop)

        await attempt(send, self._host(url), self._hosts)

    async def _send(self, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """The response to a request. Raises the error for a response that is not a success."""
        session = await self._opened()
        address = yarl.URL(escaped(self.address_of(url)), encoded=True)
        try:
            answer = await session.get(
                address, headers={**headers, **self.more_headers}, max_redirects=_REDIRECTS
            )
        except aiohttp.TooManyRedirects:
            raise refusal(
                310, f"redirects more than {_REDIRECTS} times", "open the URL in a browser, and correct it"
            ) from None
        except (aiohttp.InvalidURL, aiohttp.RedirectClientError, ValueError) as error:
            raise refusal(400, f"the URL or its redirect is not valid ({type(error).__name__})") from None
        if answer.status in (200, 206):
            return answer
        try:
            await self._raise(url, answer)
        finally:
            answer.release()

    async def _raise(self, path: str, answer: aiohttp.ClientResponse) -> NoReturn:
        """Raise the error for a response that is not a success."""
        # A file that is gone for good is missing, too.
        status = 404 if answer.status == 410 else answer.status
        body = await answer.content.read(_MOST_OF_A_MESSAGE)
        said = _MESSAGE.search(body.decode("utf-8", "replace"))
        reason = f"HTTP {answer.status}{f' {answer.reason}' if answer.reason else ''}"
        message = f"{reason}: {said[1]}" if said else reason
        error = failed(status, answer.headers, message, self.advice(path, status))
        # The first byte of an empty file was asked for.
        place = answer.headers.get("Content-Range") or "*/0"
        error.is_empty = status == 416 and place.endswith("*/0")  # type: ignore[attr-defined]
        raise error

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size and version of a file, and whether the server sends parts of it (`ranged`). The size is None
        if only reading the file tells it."""

        async def send() -> dict[str, Any]:
            # Not HEAD: a URL may be signed for GET only.
            try:
                answer = await self._send(path, {"Range": "bytes=0-0"})
            except OSError as error:
                if getattr(error, "is_empty", False):
                    return {"name": path, "size": 0, "type": "file", "ranged": True}
                raise
            async with answer:
                if answer.status == 200:
                    answer.close()  # do not read the whole body
                return {
                    **{"name": path, "type": "file", "size": _size_of(answer), "ETag": _tag_of(answer)},
                    "ranged": answer.status == 206,
                }

        return await attempt(send, self._host(path), self._hosts)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        target = io.BytesIO()
        stop = MOST_WHOLE + 1 if end is None else end
        await self._get(path, start or 0, stop, target, None)
        if end is None and target.tell() > MOST_WHOLE:
            raise _too_large(MOST_WHOLE)
        return target.getvalue()

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "rb":
            raise UsageError(f"{path}: cannot be written: faceq only reads URLs")
        return HttpFile(self, path, block_size=block_size or "default", **options)

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        _refuse_to_list(path)

    def objects_below(self, path: str, note: Note) -> Objects:
        _refuse_to_list(path)

    def objects_in(self, folder: str, beginning: str, note: Note) -> tuple[Objects, list[str]]:
        _refuse_to_list(folder)


class HttpFile(AbstractBufferedFile):
    """A file opened for reading. If the server sends no parts of it, it is read whole into a temporary file
    first. `most`: the maximum size in bytes of such a file."""

    def __init__(
        self, fs: HttpFiles, path: str, block_size: Any, cache_type: str = "readahead", **options: Any
    ):
        most = options.pop("most_whole", MOST_WHOLE)
        self._details = fs.info(path)
        self._whole: Any = None
        if not self._details["ranged"] or self._details["size"] is None:
            self._whole = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with the file
            sync(fs.loop, fs._get, path, 0, most + 1, self._whole, self._details["ETag"])
            size = self._whole.seek(0, io.SEEK_END)
            if size > most:
                self._whole.close()
                raise _too_large(most)
            self._details["size"] = size
            cache_type = "none"
        super().__init__(fs, path, "rb", block_size, cache_type=cache_type, size=self._details["size"])

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._whole is not None:
            self._whole.seek(start)
            return bytes(self._whole.read(end - start))
        end = min(end, self.size)
        if start >= end:
            return b""
        target = io.BytesIO()
        sync(self.fs.loop, self.fs._get, self.path, start, end, target, self._details["ETag"])
        return target.getvalue()

    def close(self) -> None:
        super().close()
        if getattr(self, "_whole", None) is not None:
            self._whole.close()


async def _copy(answer: aiohttp.ClientResponse, target: IO[bytes], first: int, stop: int) -> None:
    """Write the bytes of a file from `first` up to `stop` to `target`. The response has these bytes, or the
    whole file."""
    place = promised = 0
    if answer.status == 206:
        found = _RANGE.match(answer.headers.get("Content-Range", ""))
        if not found or found[1] is None or int(found[1]) != first:
            raise OSError(errno.EPROTO, "the server sent other bytes of the file than it was asked for")
        place, promised = first, min(stop, int(found[2]) + 1)
    began, begin = time.monotonic(), place
    async for chunk in answer.content.iter_chunked(_CHUNK):
        target.write(chunk[max(0, first - place) : max(0, stop - place)])
        place += len(chunk)
        took = time.monotonic() - began
        if took > _PATIENCE_S and place - begin < took * _SLOWEST:
            answer.close()
            raise TimeoutError(f"the server sent {place - begin} bytes in {took:.0f} s")
        if place >= stop:
            if answer.status != 206:
                answer.close()  # the rest of the file is not wanted
            return
    if place < promised:
        raise aiohttp.ClientPayloadError(f"the server sent {place - begin} of {promised - begin} bytes")


def _refuse_to_list(path: str) -> NoReturn:
    raise UsageError(f"{path}: there is no such file, and a web server lists no folders: name files")


def _tag_of(answer: aiohttp.ClientResponse) -> str | None:
    """The version of the file; None if the response does not tell."""
    # Hugging Face redirects to another server, whose ETag is its own.
    linked = next((each.headers[_LINKED] for each in answer.history if _LINKED in each.headers), None)
    tag = linked or answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    return tag and tag.removeprefix("W/").strip('"')


def _size_of(answer: aiohttp.ClientResponse) -> int | None:
    """The size of the file in bytes; None if the response does not tell."""
    if answer.status == 206:
        found = _RANGE.match(answer.headers.get("Content-Range", ""))
        return int(found[3]) if found and found[3] != "*" else None
    encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
    return None if encoded else answer.content_length


def _too_large(most: int) -> ValueError:
    return ValueError(
        f"its server sends no parts of files, and it has more than {most} bytes, the maximum for a file that "
        "is read whole: raise limits.temporary_bytes, or copy the file to another store"
    )


def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close the connections of a file system that is no longer used."""
    if loop is not None and loop.is_running():
        loop.call_soon_threadsafe(lambda: loop.create_task(session.close()))

"""Listings of object stores, page by page, and the types that all stores share."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from fsspec.asyn import AsyncFileSystem, sync

from faceq.storage.answers import code_of

Objects = dict[str, int | None]
"""Size in bytes by `bucket/key`. No size is None here; the type permits it for callers that add entries."""

Note = Callable[[str, str], None]
"""Called with the `bucket/key` and the version (such as an ETag) of each listed object."""


NO_BUCKET = "NoSuchBucket"
"""Error code of a request to a bucket that does not exist."""


class Page(NamedTuple):
    """A part of a listing. objects: in the form of `PagedObjects.head`. prefixes: up to and including the
    delimiter, as keys. token: continues the listing; None: this is the last part."""

    objects: list[dict[str, Any]]
    prefixes: list[str]
    token: str | None


class PagedObjects(AsyncFileSystem):
    """Listings and details of the objects of a store, from two requests. Nothing is cached: a job must see
    the record that another job has just written."""

    @abstractmethod
    async def head(self, path: str) -> dict[str, Any]:
        """An object: its `name` (`bucket/key`), its `size` in bytes, its `type` (`file`), its `ETag` (a text
        that changes with the content) and `LastModified` (a datetime).

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the store refuses the request.
        """

    @abstractmethod
    async def page(
        self, bucket: str, prefix: str, delimiter: str, token: str | None, most: int | None = None
    ) -> Page:
        """A part of the listing of the objects whose keys begin with `prefix`. With a delimiter, keys that
        contain it after the prefix are returned as `prefixes`. `most`: only so many objects.

        Raises:
            FileNotFoundError: there is no such bucket.
            OSError: the store refuses the request.
        """

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path without its scheme. The rest is unchanged: a key may end in a slash, or contain `://`."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        scheme, _, rest = path.partition("://")
        return rest if scheme in cls.protocol else path

    def bucket_and_key(self, path: str) -> tuple[str, str]:
        """The two parts of a path; no key: ""."""
        bucket, _, key = path.partition("/")
        return bucket, key

    def objects_below(self, path: str, note: Note) -> Objects:
        """See `Bucket.below`."""
        bucket, key = self.bucket_and_key(path)
        objects, _ = sync(self.loop, self._listed, bucket, f"{key}/" if key else "", "", note)
        return objects

    def objects_in(self, folder: str, beginning: str, note: Note) -> tuple[Objects, list[str]]:
        """See `Bucket.matching`."""
        bucket, key = self.bucket_and_key(folder)
        prefix = f"{key}/" if key else ""
        objects, prefixes = sync(self.loop, self._listed, bucket, prefix + beginning, "/", note)
        objects.pop(f"{bucket}/{prefix}", None)  # it stands for the folder
        return objects, prefixes

    async def _listed(
        self, bucket: str, prefix: str, delimiter: str, note: Note
    ) -> tuple[Objects, list[str]]:
        objects: Objects = {}
        prefixes: list[str] = []
        async for page in self._pages(bucket, prefix, delimiter):
            for found in page.objects:
                objects[found["name"]] = found["size"]
                note(found["name"], found["ETag"] or "")
            prefixes += [f"{bucket}/{each.removesuffix('/')}" for each in page.prefixes]
        return objects, prefixes

    async def _pages(self, bucket: str, prefix: str, delimiter: str) -> AsyncIterator[Page]:
        token = None
        while True:
            page = await self.page(bucket, prefix, delimiter, token)
            yield page
            token = page.token
            if not token:
                return

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """The objects and folders directly in a folder; an object lists itself."""
        path = self._strip_protocol(path).rstrip("/")  # DuckDB passes whole URIs
        bucket, key = self.bucket_and_key(path)
        prefix = f"{key}/" if key else ""
        found: list[dict[str, Any]] = []
        async for page in self._pages(bucket, prefix, "/"):
            found += [each for each in page.objects if each["name"] != f"{bucket}/{prefix}"]
            found += [_folder(f"{bucket}/{each.removesuffix('/')}") for each in page.prefixes]
        if not found and key:
            info = await self._info(path)  # raises FileNotFoundError
            found = [info] if info["type"] == "file" else []
        return found if detail else [each["name"] for each in found]

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        """An object in the form of `head`, or a folder."""
        path = self._strip_protocol(path).rstrip("/")
        bucket, key = self.bucket_and_key(path)
        if key:
            try:
                return await self.head(path)
            except FileNotFoundError:
                pass
        page = await self.page(bucket, f"{key}/" if key else "", "", None, most=1)
        if key and not page.objects:
            raise FileNotFoundError(path)
        return _folder(path)

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Delete an object.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the store refuses the request.
        """

    async def _rm_file(self, path: str, **options: Any) -> None:
        """Delete an object, if it is there: if the response to a request is lost, it is repeated, and then
        the object is gone. S3 does the same."""
        try:
            await self.delete(path)
        except FileNotFoundError as error:
            if code_of(error) == NO_BUCKET:
                raise

    # The methods of fsspec, gcsfs and adlfs answer False to some outages.

    async def _exists(self, path: str, **options: Any) -> bool:
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    async def _isdir(self, path: str) -> bool:
        try:
            return bool((await self._info(path))["type"] == "directory")
        except FileNotFoundError:
            return False

    def modified(self, path: str, refresh: bool = False) -> Any:
        """When an object was last written."""
        return self.info(path)["LastModified"]


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}

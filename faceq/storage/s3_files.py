"""The file system of s3fs, with three changes: object names stay unchanged, listings are never taken from its
cache, and responses that do not come from an S3 service are errors."""

import errno
from typing import Any

import s3fs
from fsspec.asyn import sync_wrapper

from faceq.errors import UsageError
from faceq.messages.masking import mask_error

_S3_FIELDS = {
    "get_object": ("ETag", "LastModified"),
    "head_object": ("ETag", "LastModified"),
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
    "list_objects_v2": ("IsTruncated", "KeyCount", "Name", "Contents", "CommonPrefixes"),
}
"""Fields of a response of S3, by request. Every genuine response has at least one of them."""


class S3Files(s3fs.S3FileSystem):
    """The S3 file system that `storage.filesystem` returns."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key. s3fs itself would cut `?versionId=…` off a key and read another object."""
        path, mark, rest = path.partition("?versionId=")
        bucket, key, _ = super().split_path(path)
        return bucket, f"{key}{mark}{rest}", None

    async def set_session(self, *rest: Any, **options: Any) -> Any:
        """The method of s3fs; raises UsageError if the endpoint is not a URL."""
        try:
            return await super().set_session(*rest, **options)
        except ValueError as error:
            raise UsageError(
                f"s3.endpoint_url (or AWS_ENDPOINT_URL): {error}: write it as https://host"
            ) from None

    async def _lsdir(self, path: str, refresh: bool = False, *rest: Any, **options: Any) -> Any:
        """The method of s3fs, which always asks the storage. The cache only saves a request when a file that
        was listed is opened.

        Emptying the cache before a listing is not enough: the threads of a process share the file system, and
        a listing of another thread, begun earlier, may fill the cache again in between. A job would then
        miss the record that it has just written.
        """
        return await super()._lsdir(path, True, *rest, **options)

    async def _call_s3(self, method: str, *rest: Any, **options: Any) -> Any:
        """The method of s3fs, with two additions.

        A response that is not from S3 is an error: a web server that answers 200 to every request would seem
        to accept rows and to list empty folders. Secrets in errors are masked: errors name the endpoint,
        whose URL may hold a password, and Ray logs the errors of workers.
        """
        try:
            answer = await super()._call_s3(method, *rest, **options)
        except Exception as error:
            mask_error(error)
            raise
        if isinstance(answer, dict) and not _is_from_s3(method, answer):
            raise OSError(
                errno.EPROTO,
                "the endpoint responds, but not like S3: check s3.endpoint_url (or AWS_ENDPOINT_URL)",
            )
        return answer

    call_s3 = sync_wrapper(_call_s3)  # the inherited one is bound to the `_call_s3` of s3fs


def _is_from_s3(method: str, answer: dict[str, Any]) -> bool:
    fields = _S3_FIELDS.get(method)
    if fields is None or any(answer.get(field) is not None for field in fields):
        return True
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return any(name.startswith("x-amz") for name in headers)

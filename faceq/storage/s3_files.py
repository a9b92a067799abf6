"""s3fs's file system, with the names of objects left as they are, and answers that only S3 gives."""

import errno
from typing import Any

import s3fs
from fsspec.asyn import sync_wrapper

from faceq.errors import UsageError
from faceq.messages.masking import clean

_SIGNS = {
    "get_object": ("ETag", "LastModified"),
    "head_object": ("ETag", "LastModified"),
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
    "list_objects_v2": ("IsTruncated", "KeyCount", "Name", "Contents", "CommonPrefixes"),
}
"""What an answer of S3 has, of each request at least one."""


class S3Files(s3fs.S3FileSystem):
    """S3 as `storage.filesystem` gives it."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key. s3fs would cut `?versionId=…` off a key, and read another object."""
        path, mark, rest = path.partition("?versionId=")
        bucket, key, _ = super().split_path(path)
        return bucket, f"{key}{mark}{rest}", None

    async def set_session(self, *rest: Any, **options: Any) -> Any:
        """As s3fs's; UsageError where the endpoint is no URL."""
        try:
            return await super().set_session(*rest, **options)
        except ValueError as error:
            raise UsageError(
                f"s3.endpoint_url (or AWS_ENDPOINT_URL): {error}: name it as https://host"
            ) from None

    async def _call_s3(self, method: str, *rest: Any, **options: Any) -> Any:
        """As s3fs's. A web server that says 200 to everything would take rows, and give an empty list; errors
        name the endpoint, which may hold a password, and Ray logs those of workers."""
        try:
            answer = await super()._call_s3(method, *rest, **options)
        except Exception as error:
            clean(error)
            raise
        if isinstance(answer, dict) and not _is_of_s3(method, answer):
            raise OSError(
                errno.EPROTO,
                "the endpoint answers, but not as S3 does: check s3.endpoint_url (or AWS_ENDPOINT_URL)",
            )
        return answer

    call_s3 = sync_wrapper(_call_s3)  # s3fs's own is bound to its `_call_s3`


def _is_of_s3(method: str, answer: dict[str, Any]) -> bool:
    signs = _SIGNS.get(method)
    if signs is None or any(answer.get(sign) is not None for sign in signs):
        return True
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return any(name.startswith("x-amz") for name in headers)

"""s3fs's file system, with the names of objects left as they are."""

from typing import Any

import s3fs

from faceq.masking import clean


class S3Files(s3fs.S3FileSystem):
    """S3 as `storage.filesystem` gives it."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key. s3fs would cut `?versionId=…` off a key, and read another object."""
        path, mark, rest = path.partition("?versionId=")
        bucket, key, _ = super().split_path(path)
        return bucket, f"{key}{mark}{rest}", None

    async def _call_s3(self, method: str, *arguments: Any, **named: Any) -> Any:
        """One request. Errors name the endpoint, which may hold a password, and Ray logs those of workers."""
        try:
            return await super()._call_s3(method, *arguments, **named)
        except Exception as error:
            clean(error)
            raise

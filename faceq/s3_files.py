"""s3fs's file system, with the names of objects left as they are."""

import s3fs


class S3Files(s3fs.S3FileSystem):
    """S3 as `storage.filesystem` gives it."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key. s3fs would cut `?versionId=…` off a key, and read another object."""
        path, mark, rest = path.partition("?versionId=")
        bucket, key, _ = super().split_path(path)
        return bucket, f"{key}{mark}{rest}", None

"""The file system of s3fs, with three changes: object names stay unchanged, listings are never taken from its
cache, and responses that do not come from an S3 service are errors."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import botocore.session
import s3fs
from fsspec.asyn import sync_wrapper

from faceq.errors import UsageError
from faceq.messages.masking import mask_error
from faceq.storage import s3_listing
from faceq.storage.answers import wrong_server
from faceq.storage.object_listing import Note, Objects
from faceq.storage.settings import S3Settings

ATTEMPTS = 6
"""Number of attempts for one request to S3. With the backoff of the mode `standard`, at most 20 seconds
between two attempts, the last one starts about 15 seconds after the first. A mistyped endpoint is thus
reported soon."""

_S3_FIELDS = {
    "get_object": ("ETag", "LastModified"),
    "head_object": ("ETag", "LastModified"),
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
    "list_objects_v2": ("IsTruncated", "KeyCount", "Name", "Contents", "CommonPrefixes"),
}
"""Fields of a response of S3, by request. Every genuine response has at least one of them."""


def s3_files(s3: S3Settings) -> "S3Files":
    """The file system of S3.

    Endpoint, region and credentials come from the AWS environment variables and profiles; `s3` overrides
    them. With `s3.anonymous`, requests are not signed. With `s3.requester_pays`, every request agrees to pay.
    Retries and their backoff are those of botocore (AWS_MAX_ATTEMPTS, AWS_RETRY_MODE). If a connection breaks
    or a body is incomplete, s3fs makes up to five such attempts.
    """
    options: dict[str, Any] = {"endpoint_url": s3.endpoint_url, "profile": s3.profile}
    # botocore reads only AWS_DEFAULT_REGION; the other SDKs, and most users, use AWS_REGION.
    region = s3.region or os.environ.get("AWS_REGION")
    if region:
        options["client_kwargs"] = {"region_name": region}
    options |= {"anon": s3.anonymous, "requester_pays": s3.requester_pays}
    options["config_kwargs"] = {"retries": _retries(s3)}
    return S3Files(**{key: value for key, value in options.items() if value})


def _retries(s3: S3Settings) -> dict[str, Any]:
    """Retry settings for botocore; environment variables and the profile override them.

    The mode is `standard`. Unlike `legacy`, it retries after every broken connection, and it takes all
    retries of a process from one quota, so that faceq does not send requests for hours to a store that is
    down.
    """
    profile = _profile(s3.profile, *map(os.environ.get, _PROFILE_VARIABLES))
    retries: dict[str, Any] = {}
    if not (os.environ.get("AWS_RETRY_MODE") or profile.get("retry_mode")):
        retries["mode"] = "standard"
    if not (os.environ.get("AWS_MAX_ATTEMPTS") or profile.get("max_attempts")):
        retries["total_max_attempts"] = ATTEMPTS
    return retries


_PROFILE_VARIABLES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
)


@functools.lru_cache
def _profile(name: str | None, *variables: str | None) -> Mapping[str, Any]:
    """The settings of a profile. They are cached, because a botocore session takes 20 ms to create and a job
    asks for a file system once per file.

    Args:
        name: the name of the profile; None: the default profile.
        variables: values of the environment variables that choose the profile. They are only the cache key.
    """
    try:
        found: Mapping[str, Any] = botocore.session.Session(profile=name).get_scoped_config()
    except botocore.exceptions.BotoCoreError:
        return {}  # the file system raises the error on first use
    return found


class S3Files(s3fs.S3FileSystem):
    """The S3 file system that `storage.filesystem` returns."""

    def objects_below(self, path: str, note: Note) -> Objects:
        """See `Bucket.below`."""
        return s3_listing.find(self, path, note)

    def objects_in(self, folder: str, beginning: str, note: Note) -> tuple[Objects, list[str]]:
        """See `Bucket.matching`."""
        return s3_listing.level(self, folder, beginning, note)

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
            raise wrong_server("S3", "s3.endpoint_url (or AWS_ENDPOINT_URL)")
        return answer

    call_s3 = sync_wrapper(_call_s3)  # the inherited one is bound to the `_call_s3` of s3fs


def _is_from_s3(method: str, answer: dict[str, Any]) -> bool:
    fields = _S3_FIELDS.get(method)
    if fields is None or any(answer.get(field) is not None for field in fields):
        return True
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return any(name.startswith("x-amz") for name in headers)

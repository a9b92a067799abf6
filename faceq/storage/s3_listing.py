"""List all objects below an S3 prefix with several requests at once.

A response holds at most a thousand keys, and only the response says where the next one begins. A million keys
therefore take a thousand requests one after another, which is minutes. But keys come in order, and a listing
may start after any name, whether or not that name exists. So whenever fewer than REQUESTS_AT_ONCE requests
are running, the range that is left after a response is split at a name half way, and both halves are listed
in parallel.
"""

import asyncio
import contextvars
import errno
import itertools
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from fsspec.asyn import sync

from faceq.errors import FaceqError
from faceq.storage.answers import code_of
from faceq.storage.object_listing import Note, Objects

KEYS_AT_ONCE = 1000
"""Maximum number of keys in a response; S3 returns no more."""

REQUESTS_AT_ONCE = 10
"""Number of connections that botocore keeps open; more requests would wait for one."""

_TOP = 0x7F
"""The last code of ASCII. Ranges are split only at ASCII names: a code half way between two other characters
may not be a character."""

_names_only = contextvars.ContextVar("_names_only", default=False)
"""Whether `_read_contents` parses the responses in this task."""

_CANNOT_START_AFTER = {"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"}
"""Error codes of stores that cannot start a listing after a given name. If something else is wrong, the plain
listing fails with the same error."""


class _NoOrderError(FaceqError):
    """The storage does not list in the order of S3, or cannot start a listing after a given name."""


@dataclass(frozen=True)
class _Part:
    """A range of keys that is still to be listed: after `after`, up to and including `end` (None: to the
    last). `token` continues a listing; without it, a new listing starts."""

    after: str
    end: str | None = None
    token: str | None = None


def find(files: Any, path: str, note: Note = lambda path, tag: None) -> Objects:
    """All objects below a prefix, at any depth.

    Args:
        files: the file system of s3fs.
        path: `bucket` or `bucket/prefix`, without a trailing slash.
        note: called with the ETag of each object.

    Raises:
        OSError: S3 refuses the request; s3fs chooses the subclass (PermissionError, FileNotFoundError).
    """
    try:
        return sync(files.loop, _find, files, path, note)
    except _NoOrderError:
        bucket, key, _ = files.split_path(path)
        objects, _ = sync(files.loop, _pages, files, bucket, f"{key}/" if key else "", "", note)
        return objects


def level(
    files: Any, folder: str, beginning: str = "", note: Note = lambda path, tag: None
) -> tuple[Objects, list[str]]:
    """The objects and prefixes directly below a prefix.

    Args:
        files: the file system of s3fs.
        folder: `bucket` or `bucket/prefix`, without a trailing slash.
        beginning: only names that begin with this.
        note: called with the ETag of each object.

    Returns:
        The objects, and the prefixes in the form of `folder`.

    Raises:
        OSError: as for `find`.
    """
    bucket, key, _ = files.split_path(folder)
    prefix = f"{key}/" if key else ""
    objects, prefixes = sync(files.loop, _pages, files, bucket, prefix + beginning, "/", note)
    return {name: size for name, size in objects.items() if name != f"{bucket}/{prefix}"}, prefixes


async def _pages(
    files: Any, bucket: str, prefix: str, delimiter: str, note: Note
) -> tuple[Objects, list[str]]:
    """A listing in the order of the store, page by page: objects, and prefixes up to a delimiter."""
    objects: Objects = {}
    prefixes: list[str] = []
    where: dict[str, str] = {"Delimiter": delimiter} if delimiter else {}
    while True:
        page = await files._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **where)
        objects.update((f"{bucket}/{key}", size) for key, size in _sizes(page).items())
        for found in page.get("Contents", ()):
            note(f"{bucket}/{found['Key']}", found.get("ETag") or "")
        prefixes += [f"{bucket}/{found['Prefix'][:-1]}" for found in page.get("CommonPrefixes", ())]
        if not page.get("IsTruncated"):
            return objects, prefixes
        if not page.get("NextContinuationToken"):
            raise OSError(errno.EIO, "the storage sent an incomplete listing without a continuation token")
        where["ContinuationToken"] = page["NextContinuationToken"]


async def _find(files: Any, path: str, note: Note) -> Objects:
    bucket, key, _ = files.split_path(path)
    prefix = f"{key}/" if key else ""
    await files.set_session()
    client = await files.get_s3(bucket)
    client.meta.events.register("before-parse.s3.ListObjectsV2", _read_contents, unique_id="faceq-listing")
    _names_only.set(True)

    found: Objects = {}
    beyond: set[str] = set()
    # Start after the prefix itself: an object of that name stands for a folder.
    running = {asyncio.create_task(_answer(files, bucket, prefix, _Part(prefix), note))}
    try:
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            running.remove(task)
            objects, others, rest = task.result()
            found.update(objects)
            beyond |= others
            for each in _cut(rest, prefix, REQUESTS_AT_ONCE - len(running)) if rest else ():
                running.add(asyncio.create_task(_answer(files, bucket, prefix, each, note)))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    # A key beyond the end of one part must have been listed in another part.
    if not beyond <= found.keys():
        raise _NoOrderError
    return found


async def _answer(
    files: Any, bucket: str, prefix: str, part: _Part, note: Note
) -> tuple[Objects, set[str], _Part | None]:
    """The first objects of a part; the names in the same response that lie beyond its end; the rest of the
    part (None: nothing is left)."""
    where = {"ContinuationToken": part.token} if part.token else {"StartAfter": part.after}
    try:
        answer = await files._call_s3(
            "list_objects_v2",
            Bucket=bucket,
            Prefix=prefix,
            MaxKeys=KEYS_AT_ONCE,
            **{name: value for name, value in where.items() if value},
        )
    except OSError as error:
        if code_of(error) in _CANNOT_START_AFTER:
            raise _NoOrderError from None
        raise
    sizes = _sizes(answer)
    for found in answer.get("Contents", ()):
        note(f"{bucket}/{found['Key']}", found.get("ETag") or "")
    keys = [part.after, *sizes]
    if any(one >= other for one, other in itertools.pairwise(keys)):
        raise _NoOrderError
    objects = {f"{bucket}/{key}": size for key, size in sizes.items() if part.end is None or key <= part.end}
    others = {f"{bucket}/{key}" for key in sizes} - objects.keys()
    if not answer.get("IsTruncated") or (part.end is not None and keys[-1] >= part.end):
        return objects, others, None
    if not answer.get("NextContinuationToken"):
        raise _NoOrderError
    return objects, others, replace(part, after=keys[-1], token=answer["NextContinuationToken"])


def _sizes(answer: dict[str, Any]) -> Objects:
    """Size in bytes by key, of the objects in a response.

    Raises:
        OSError: two keys are equal. Some stores accept keys that are not UTF-8. Such keys can be neither told
            apart nor read, so without an error one of them would get no row.
    """
    listed = answer.get("Contents", ())
    sizes = {found["Key"]: found["Size"] for found in listed}
    if len(sizes) < len(listed):
        keys = [found["Key"] for found in listed]
        alike = next(key for key in sizes if keys.count(key) > 1)
        raise OSError(
            errno.EILSEQ, f"several objects are listed as {alike!r}: their keys are not UTF-8: rename them"
        )
    return sizes


def _cut(part: _Part, prefix: str, most: int) -> list[_Part]:
    """Split a part into at most `most` parts. The first one continues the listing, the others start new
    ones."""
    parts: list[_Part] = []
    while len(parts) + 1 < most:
        middle = between(part.after, part.end or prefix + chr(_TOP))
        if middle is None:
            break
        parts.append(_Part(middle, part.end))
        part = replace(part, end=middle)
    return [part, *parts]


def _read_contents(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Parse keys, sizes and ETags out of a response to `_find` before botocore parses the rest.

    For a thousand keys, botocore takes 0.1 s of CPU, mostly to parse dates; this function takes a tenth of
    it. Old versions of botocore do not call it and parse everything themselves.
    """
    if not _names_only.get():
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # a truncated response; botocore raises the error
    if not root.tag.endswith("ListBucketResult"):
        return  # an error response
    space = root.tag.removesuffix("ListBucketResult")
    customized_response_dict["Contents"] = found = []
    for listed in root.findall(f"{space}Contents"):
        size = listed.findtext(f"{space}Size")
        tag = listed.findtext(f"{space}ETag")
        found.append({"Key": listed.findtext(f"{space}Key"), "Size": int(size or 0), "ETag": tag})
        root.remove(listed)
    response_dict["body"] = ElementTree.tostring(root)


def between(low: str, high: str) -> str | None:
    """A name between two names, low < high: half way, or as close to it as ASCII characters allow; None if
    there is no such name.

    The name ends with the first character in which it differs from `low`.
    """
    name = ""
    for index in range(len(low) + 1):
        least = ord(low[index]) if index < len(low) else 0
        most = ord(high[index]) if high.startswith(name) and index < len(high) else _TOP
        middle = (least + min(most, _TOP)) // 2
        if least < middle < most:
            return name + chr(middle)
        name += low[index : index + 1]
    return None

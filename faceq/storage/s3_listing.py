"""All objects below an S3 prefix, listed by several requests at once.

An answer holds a thousand keys at most, and where the next one begins only this one tells: a million keys are
a thousand requests one after another, minutes of them. But keys come in order, and a listing may start after
any name, be it there or not. So while fewer requests are under way than may be, what is left after an answer
is cut in two at a name half way, and both parts are listed side by side.
"""

import asyncio
import contextvars
import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from fsspec.asyn import sync

from faceq.errors import FaceqError
from faceq.storage.faults import code_of

KEYS_AT_ONCE = 1000
"""Keys of an answer; S3 gives no more."""

REQUESTS_AT_ONCE = 10
"""So many connections botocore keeps open; more requests would wait for one."""

_TOP = 0x7F
"""The last of ASCII. Names are cut at its letters: half way between two others there may be none at all."""

_names_only = contextvars.ContextVar("_names_only", default=False)
"""Whether the answers that this task gets are read by `_read_contents`."""

_NOT_THIS_WAY = {"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"}
"""Answers of stores that do not list from any name on. What else is wrong the plain listing tells, too."""

Objects = dict[str, int | None]
"""Bytes by `bucket/key`; never None here, but for who adds to it."""

Note = Callable[[str, str], None]
"""Takes the ETag of an object that was listed, by its `bucket/key`."""


class _NoOrderError(FaceqError):
    """The storage lists in another order than S3 does, or not from any name on."""


@dataclass(frozen=True)
class _Part:
    """What is still to be listed: keys after one, up to `end` (None: all). `token` goes on with a listing;
    without it one begins."""

    after: str
    end: str | None = None
    token: str | None = None


def find(files: Any, path: str, note: Note = lambda path, tag: None) -> Objects:
    """Objects below a prefix, through all levels.

    Args:
        files: s3fs's file system.
        path: `bucket` or `bucket/prefix`, without a slash at its end.
        note: told the objects' ETags.

    Raises:
        OSError: what s3fs makes of S3's refusals (PermissionError, FileNotFoundError).
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
    """What lies right below a prefix, under names with some beginning.

    Args:
        files: s3fs's file system.
        folder: `bucket` or `bucket/prefix`, without a slash at its end.
        beginning: of the names.
        note: told the objects' ETags.

    Returns:
        The objects, and the prefixes, as `folder` has them.

    Raises:
        OSError: as `find`.
    """
    bucket, key, _ = files.split_path(folder)
    prefix = f"{key}/" if key else ""
    objects, prefixes = sync(files.loop, _pages, files, bucket, prefix + beginning, "/", note)
    return {name: size for name, size in objects.items() if name != f"{bucket}/{prefix}"}, prefixes


async def _pages(
    files: Any, bucket: str, prefix: str, delimiter: str, note: Note
) -> tuple[Objects, list[str]]:
    """A listing in the store's own order, one page after another: objects, and prefixes up to a delimiter."""
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
            raise OSError(errno.EIO, "the storage says that its list goes on, but not where")
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
    # After the prefix, since an object that is called so stands for a folder.
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
    # A key that lay beyond the end of one part must have come in another one.
    if not beyond <= found.keys():
        raise _NoOrderError
    return found


async def _answer(
    files: Any, bucket: str, prefix: str, part: _Part, note: Note
) -> tuple[Objects, set[str], _Part | None]:
    """A part's first objects; names of others that came along, beyond its end; what is left of the part."""
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
        if code_of(error) in _NOT_THIS_WAY:
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
    """Bytes by key of what an answer lists.

    Raises:
        OSError: two keys look alike. Those that are not UTF-8, which some stores take, cannot be told apart,
            nor read: without an error one of them would have no row.
    """
    listed = answer.get("Contents", ())
    sizes = {found["Key"]: found["Size"] for found in listed}
    if len(sizes) < len(listed):
        keys = [found["Key"] for found in listed]
        alike = next(key for key in sizes if keys.count(key) > 1)
        raise OSError(
            errno.EILSEQ, f"several objects are listed as {alike!r}: their names are not UTF-8: rename them"
        )
    return sizes


def _cut(part: _Part, prefix: str, most: int) -> list[_Part]:
    """A part in at most so many: the first one goes on, the others begin."""
    parts: list[_Part] = []
    while len(parts) + 1 < most:
        middle = between(part.after, part.end or prefix + chr(_TOP))
        if middle is None:
            break
        parts.append(_Part(middle, part.end))
        part = replace(part, end=middle)
    return [part, *parts]


def _read_contents(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take keys, sizes and ETags out of an answer before botocore reads the rest of it, if it is one of ours.

    botocore takes 0.1 s of CPU for a thousand keys, most of it for their times, this a tenth. Old versions of
    it do not ask, and read all themselves.
    """
    if not _names_only.get():
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # a part of an answer, which botocore refuses
    if not root.tag.endswith("ListBucketResult"):
        return  # an error
    space = root.tag.removesuffix("ListBucketResult")
    customized_response_dict["Contents"] = found = []
    for listed in root.findall(f"{space}Contents"):
        size = listed.findtext(f"{space}Size")
        tag = listed.findtext(f"{space}ETag")
        found.append({"Key": listed.findtext(f"{space}Key"), "Size": int(size or 0), "ETag": tag})
        root.remove(listed)
    response_dict["body"] = ElementTree.tostring(root)


def between(low: str, high: str) -> str | None:
    """A name between two names, low < high: half way, or as near to that as letters of ASCII come; None where
    there is none.

    It is no longer than to the first letter in which it differs from `low`.
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

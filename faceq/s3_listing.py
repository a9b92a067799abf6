"""All objects below an S3 prefix, listed by several requests at once.

An answer holds a thousand keys at most, and where the next one begins only its last key tells: a million keys
are a thousand requests one after another, minutes of them. But keys come in order, and a listing may start
after any name, be it there or not. So what is left after an answer is cut in two at a name half way, unless
as many requests are under way as there may be, and both parts are listed side by side.
"""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any
from xml.etree import ElementTree

KEYS_AT_ONCE = 1000
"""Keys of an answer; S3 gives no more."""

REQUESTS_AT_ONCE = 10
"""So many connections botocore keeps open; more requests would wait for one."""

_TOP = "\x7f"
"""Above all of ASCII. Names beyond it are listed without cutting: a middle of such letters may be none."""

_UNORDERED_BUCKETS = "--x-s3"
"""How names of S3 Express's buckets end. These list in an order of their own, and only from the start."""

Objects = dict[str, int]
"""Bytes by `bucket/key`."""


class _NoOrderError(Exception):
    """The storage lists in no order, or ignores where a listing should start."""


def find(files: Any, path: str) -> Objects:
    """Objects below a prefix, through all levels.

    Args:
        files: s3fs's file system.
        path: `bucket` or `bucket/prefix`, without a slash at its end.

    Raises:
        OSError: what s3fs makes of S3's refusals (PermissionError, FileNotFoundError).
    """
    bucket, _, key = path.partition("/")
    prefix = f"{key}/" if key else ""
    try:
        if bucket.endswith(_UNORDERED_BUCKETS):
            raise _NoOrderError
        return _find_in_order(files, bucket, prefix)
    except _NoOrderError:
        return {name: info["size"] for name, info in files.find(path, detail=True).items()}


def _find_in_order(files: Any, bucket: str, prefix: str) -> Objects:
    events = files.connect().meta.events
    events.register("before-parse.s3.ListObjectsV2", _read_contents, unique_id="faceq-listing")
    found: Objects = {}
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        # After the prefix, since an object that is called so stands for a folder.
        running = {pool.submit(_list, files, bucket, prefix, prefix, None)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                objects, last, end = future.result()
                found.update(objects)
                if last is None:
                    continue
                few = len(running) + 2 <= REQUESTS_AT_ONCE
                middle = between(last, end or prefix + _TOP) if few else None
                if middle is not None:
                    running.add(pool.submit(_list, files, bucket, prefix, middle, end))
                    end = middle
                running.add(pool.submit(_list, files, bucket, prefix, last, end))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _list(
    files: Any, bucket: str, prefix: str, after: str, end: str | None
) -> tuple[Objects, str | None, str | None]:
    """The first objects after a name, up to `end` (None: all); the last one's key where more may follow, else
    None; and `end`."""
    start = {"StartAfter": after} if after else {}
    answer = files.call_s3(
        "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=KEYS_AT_ONCE, **start, **files.req_kw
    )
    sizes = {found["Key"]: found["Size"] for found in answer.get("Contents", ())}
    keys = list(sizes)
    if keys != sorted(keys) or (keys and keys[0] <= after) or (answer["IsTruncated"] and not keys):
        raise _NoOrderError
    inside = {f"{bucket}/{key}": sizes[key] for key in keys if end is None or key <= end}
    more = answer["IsTruncated"] and (end is None or keys[-1] < end)
    return inside, keys[-1] if more else None, end


def _read_contents(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take keys and sizes out of an answer that `_list` asked for before botocore reads the rest of it.

    botocore takes 0.1 s of CPU for a thousand keys, most of it for their times, this a tenth. Nobody else
    asks for names after another one, which the answer repeats.
    """
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return  # a part of an answer, which botocore refuses
    space = root.tag.removesuffix("ListBucketResult")
    if root.find(f"{space}StartAfter") is None:
        return
    listed = root.findall(f"{space}Contents")
    customized_response_dict["Contents"] = [
        {"Key": each.findtext(f"{space}Key"), "Size": int(each.findtext(f"{space}Size") or 0)}
        for each in listed
    ]
    for each in listed:
        root.remove(each)
    response_dict["body"] = ElementTree.tostring(root)


def between(low: str, high: str) -> str | None:
    """A name about half way between two names, low < high; None where ASCII has none.

    It goes no further than to the first letter in which it differs from `low`.
    """
    name = ""
    for index in range(len(low) + 1):
        least = ord(low[index]) if index < len(low) else 0
        most = ord(high[index]) if high.startswith(name) and index < len(high) else ord(_TOP)
        if max(least, most) > ord(_TOP):
            return None
        middle = (least + most) // 2
        if middle > least:
            return name + chr(middle)
        name += chr(least)
    return None

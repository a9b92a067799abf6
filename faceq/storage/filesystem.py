"""Local disks and object stores behind one interface: fsspec file systems."""

import os
from typing import Any
from urllib.parse import unquote

import fsspec

from faceq.errors import UsageError
from faceq.messages.masking import holds_secret
from faceq.storage.answers import answer_of
from faceq.storage.local_files import AtomicLocalFileSystem
from faceq.storage.settings import S3Settings
from faceq.storage.stores import Store, known_schemes, store_of
from faceq.storage.urls import without_signature

READ_AHEAD = 8 << 20
"""Number of extra bytes to request from a store when a file is read sequentially."""


_Kind = type[Exception]


def storage_errors() -> tuple[_Kind, _Kind, _Kind, _Kind]:
    """The exceptions other than OSError that a failing storage raises.

    This is a function because `except` evaluates it only when an exception is raised: a program that uses
    only local disks does not wait for the import of the S3 libraries.
    """
    import aiohttp  # noqa: PLC0415
    import botocore.exceptions  # noqa: PLC0415
    import botocore.parsers  # noqa: PLC0415

    return (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        # Raised by s3fs when it gives up: an incomplete body (after five attempts), a response that is not
        # XML.
        aiohttp.ClientError,
        botocore.parsers.ResponseParserError,
    )


def is_storage_error(error: BaseException) -> bool:
    """Whether the storage failed. For damaged content pyarrow also raises OSError, but without an errno."""
    if answer_of(error) or isinstance(error, storage_errors()):
        return True
    named = PermissionError | FileNotFoundError | ConnectionError | TimeoutError
    return isinstance(error, named) or (isinstance(error, OSError) and error.errno is not None)


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def check_uri(uri: str) -> Store:
    """The store of a remote URI. Checks that the URI contains no credentials: a table records the URIs of its
    sources. Raises UsageError."""
    store = store_of(uri)
    if store is None:
        raise UsageError(f"{uri}: only local paths and {known_schemes()} are supported")
    if holds_secret(uri.partition("?")[0] if store.by_url else uri):  # a URL may be signed
        raise UsageError(
            f"{uri}: contains a key or a signature: give only {store.form}; credentials come from "
            f"{store.credentials}"
        )
    return store


def check_writable(uri: str) -> None:
    """Raise UsageError if nothing can be written there because of the kind of the URI."""
    if is_remote(uri) and not (store := check_uri(uri)).writes:
        raise UsageError(f"{uri}: cannot be written: faceq only reads {store.schemes[0]}://")


def filesystem(uri: str, s3: S3Settings) -> fsspec.AbstractFileSystem:
    """The file system of a local path or of a URI of one of `STORES`.

    `s3` has the settings of S3. Other stores take their own environment variables.

    Raises:
        UsageError: the scheme is unknown or not installed, or the URI contains keys.
    """
    return check_uri(uri).files(s3) if is_remote(uri) else AtomicLocalFileSystem()


def open_remote(uri: str, path: str, s3: S3Settings, most_whole: int, ahead: int = READ_AHEAD) -> Any:
    """Open a file of a store for reading from front to back.

    Args:
        uri: a URI of the store.
        path: the file, as its file system names it.
        s3: settings of S3.
        most_whole: maximum size in bytes of a file that must be read whole, because a web server sends no
            parts of it.
        ahead: number of extra bytes to request.

    Raises:
        ValueError: the file is larger than `most_whole`.
    """
    store = check_uri(uri)
    options = {"most_whole": most_whole} if store.by_url else {}
    return store.files(s3).open(path, "rb", block_size=ahead, cache_type="readahead", **options)


def absolute(uri: str) -> str:
    """The name under which a source or a table is recorded: an absolute local path, or the URI. A signed URL
    is recorded without its signature.

    Percent-encoding, such as `%20` for a space, is decoded only in a `file://` URI, as `Path.as_uri` returns
    it.
    """
    if is_remote(uri):
        store = store_of(uri)
        return without_signature(uri) if store is not None and store.by_url else uri.rstrip("/")
    if uri.startswith("file://"):
        uri = unquote(uri.removeprefix("file://").removeprefix("localhost"), errors="surrogateescape")
    path = os.path.abspath(uri)
    return path[1:] if path.startswith("//") else path  # abspath keeps two leading slashes, as POSIX demands


def path_of(uri: str) -> str:
    """The path in the file system of the URI: an absolute local path, or `bucket/key`."""
    store = store_of(uri)
    return uri if store is not None and store.by_url else path_in_store(absolute(uri))


def path_in_store(name: str) -> str:
    """`path_of` for a name that `absolute` returned. For a local name it is the same string object."""
    store = store_of(name)
    return name if store is None else store.path_of(name)


def file_name_of(uri: str) -> str:
    """The URI up to the name of its file: a URL without its query. A local path unchanged."""
    store = store_of(uri)
    return uri if store is None or not store.by_url else uri.partition("?")[0]


def store_name(uri: str) -> str:
    """The name of the store of a URI; "" for a local path. One file system reads all URIs of a store."""
    store = store_of(uri)
    return "" if store is None else store.name


def is_inside(uri: str, folder: str) -> bool:
    """Whether a path or a URI is that of a folder or lies in it. The schemes of one store are equal, such as
    `az` and `abfs`. Symbolic links are not resolved."""
    if store_name(uri) != store_name(folder):
        return False
    return f"{path_of(uri)}/".startswith(f"{path_of(folder).rstrip('/')}/")


def joined(folder: str, place: str) -> str:
    """A relative path, resolved in the folder of a URI or a local path.

    `..` is resolved here because an object store would take it literally; it does not leave the bucket or the
    host. Empty parts of a name are kept.
    """
    parts = folder.split("/")
    root = 3 if is_remote(folder) else 1  # s3://bucket, or the root folder
    for part in place.split("/"):
        if part == "..":
            del parts[max(root, len(parts) - 1) :]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def uri_of(path: str, like: str) -> str:
    """The inverse of `path_of`: the URI of a path in the file system of the URI `like`; a local path
    unchanged."""
    store = store_of(like)
    return path if store is None or store.by_url else f"{like.partition('://')[0]}://{path}"

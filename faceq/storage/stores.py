"""The object stores that faceq knows: their schemes, what they can do, and how their file systems are made.

Only this room knows schemes. Each store has a file system of fsspec, with the methods `objects_below` and
`objects_in` if it can list, whose errors have the form of `faceq.storage.answers`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faceq.errors import UsageError
from faceq.storage.settings import S3Settings


@dataclass(frozen=True)
class Store:
    """A kind of store.

    name: for messages. schemes: of its URIs, the usual one first. form: the form of a URI, for messages.
    credentials: where they come from, for messages. make: returns its file system. extra: the extra of faceq
    that installs it; None: it is always installed. writes: objects can be written. lists: prefixes can be
    listed. by_url: a path in its file system is the whole URL.
    """

    name: str
    schemes: tuple[str, ...]
    form: str
    credentials: str
    make: Callable[[S3Settings], Any]
    extra: str | None = None
    writes: bool = True
    lists: bool = True
    by_url: bool = False

    def files(self, s3: S3Settings) -> Any:
        """Its file system. Raises UsageError if the extra is not installed."""
        try:
            return self.make(s3)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if self.extra is None or missing == "faceq":
                raise
            raise UsageError(
                f"{self.schemes[0]}://: {self.name} needs {missing}, which is not installed: run "
                f'`pip install "faceq[{self.extra}]"`'
            ) from None

    def path_of(self, uri: str) -> str:
        """The path of a URI in the file system."""
        return uri if self.by_url else uri.partition("://")[2]


def _maker(module: str, name: str) -> Callable[[S3Settings], Any]:
    """Makes a file system. Its libraries are imported when it is used: a program that uses only local disks
    does not wait for them, and an extra need not be installed."""

    def make(s3: S3Settings) -> Any:
        return getattr(importlib.import_module(f"faceq.storage.{module}"), name)(s3)

    return make


STORES = (
    Store(
        "S3",
        ("s3",),
        "s3://BUCKET/KEY",
        "the AWS variables or a profile",
        _maker("s3_files", "s3_files"),
    ),
    Store(
        "Google Cloud Storage",
        ("gs", "gcs"),
        "gs://BUCKET/KEY",
        "Google's application default credentials",
        _maker("gcs_files", "gcs_files"),
        extra="gcs",
    ),
    Store(
        "Azure Blob Storage",
        ("az", "abfs", "abfss"),
        "az://CONTAINER/NAME",
        "the AZURE_STORAGE variables or Azure's default credential",
        _maker("azure_files", "azure_files"),
        extra="azure",
    ),
    Store(
        "the Hugging Face Hub",
        ("hf",),
        "hf://datasets/OWNER/NAME/PATH",
        "HF_TOKEN or `hf auth login`",
        _maker("hub_files", "hub_files"),
        writes=False,
    ),
    Store(
        "the web",
        ("https", "http"),
        "https://HOST/PATH",
        "signed URLs",
        _maker("http_files", "http_files"),
        writes=False,
        lists=False,
        by_url=True,
    ),
)

BY_SCHEME = {scheme: store for store in STORES for scheme in store.schemes}


def store_of(uri: str) -> Store | None:
    """The store of a URI; None for a local path or an unknown scheme."""
    scheme, found, _ = uri.partition("://")
    return BY_SCHEME.get(scheme) if found else None


def known_schemes() -> str:
    """The usual schemes, for messages."""
    *first, last = (f"{store.schemes[0]}://" for store in STORES)
    return f"{', '.join(first)} and {last}" if first else last

"""The stores that `tests/integration/test_stores.py` runs over, each on a real server on this machine."""

import contextlib
import csv
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
import real_azure
from face_shards import face_shards
from faulty_s3 import Fault, proxy_to
from hub import DATASET
from real_s3 import BUCKET
from web import Web

from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings

FRAMES = 200

Choose = Callable[[str, str], Fault]


@dataclass(frozen=True)
class Place:
    """A store.

    uri: where tests read and write. put: writes a file, not through faceq. faulty: while it is open, requests
    go through a proxy that chooses faults; it yields the settings to use and a count of the faults. lists,
    writes: what the store can do.
    """

    name: str
    uri: str
    put: Callable[[str, bytes], object]
    faulty: Callable[[Choose], AbstractContextManager[tuple[S3Settings, Counter[str]]]] | None = None
    lists: bool = True
    writes: bool = True

    def inputs(self, folder: str, names: list[str], tmp_path: Path) -> dict[str, list[str]]:
        """Settings of a job that reads these files in a folder: the folder, or a manifest of them."""
        if self.lists:
            return {"input": [f"{self.uri}/{folder}"]}
        path = tmp_path / f"{self.name}.csv"
        with open(path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([["uri"], *([f"{self.uri}/{folder}/{name}"] for name in names)])
        return {"manifest": [str(path)]}


def disk(folder: Path) -> Place:
    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return Place("disk", str(folder), put)


def s3_place(uri: str) -> Place:
    @contextlib.contextmanager
    def faulty(choose: Choose) -> Iterator[tuple[S3Settings, Counter[str]]]:
        with (
            pytest.MonkeyPatch.context() as patch,
            proxy_to(os.environ["AWS_ENDPOINT_URL"], choose) as (address, met),
        ):
            patch.delenv("AWS_MAX_ATTEMPTS", raising=False)
            patch.setenv("AWS_ENDPOINT_URL", address)
            yield S3Settings(endpoint_url=address), met

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"stores/{name}", Body=data)

    client = boto3.client("s3")
    return Place("s3", f"{uri}/stores", put, faulty)  # other tests use the bucket, too


def gcs_place(uri: str) -> Place:
    address = os.environ["STORAGE_EMULATOR_HOST"]

    def put(name: str, data: bytes) -> None:
        url = f"{address}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}"
        urllib.request.urlopen(urllib.request.Request(url, data, method="POST")).close()

    @contextlib.contextmanager
    def faulty(choose: Choose) -> Iterator[tuple[S3Settings, Counter[str]]]:
        with pytest.MonkeyPatch.context() as patch, proxy_to(address, choose) as (proxied, met):
            patch.setenv("STORAGE_EMULATOR_HOST", proxied)
            yield S3Settings(), met

    return Place("gcs", uri, put, faulty)


def azure_place(uri: str) -> Place:
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - an extra

    known = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    address = known.partition("BlobEndpoint=")[2].rpartition(f"/{real_azure.ACCOUNT}")[0]
    client = BlobServiceClient.from_connection_string(known).get_container_client(BUCKET)

    @contextlib.contextmanager
    def faulty(choose: Choose) -> Iterator[tuple[S3Settings, Counter[str]]]:
        kind = type(filesystem(uri, S3Settings()))
        try:
            with pytest.MonkeyPatch.context() as patch, proxy_to(address, choose) as (proxied, met):
                patch.setenv("AZURE_STORAGE_CONNECTION_STRING", real_azure.connection_string(proxied))
                kind.clear_instance_cache()  # it has connected to the server itself
                yield S3Settings(), met
        finally:
            kind.clear_instance_cache()

    return Place("azure", uri, lambda name, data: client.upload_blob(name, data, overwrite=True), faulty)


def web_place(server: Web) -> Place:
    def put(name: str, data: bytes) -> None:
        server.files[name] = data

    return Place("web", server.address, put, lists=False, writes=False)


def hub_place(server: Web) -> Place:
    """The dataset of `hub.hub`."""

    def put(name: str, data: bytes) -> None:
        server.files[name] = data

    @contextlib.contextmanager
    def faulty(choose: Choose) -> Iterator[tuple[S3Settings, Counter[str]]]:
        with pytest.MonkeyPatch.context() as patch, proxy_to(server.address, choose) as (proxied, met):
            patch.setenv("HF_ENDPOINT", proxied)
            yield S3Settings(), met

    return Place("hub", f"hf://{DATASET}", put, faulty, writes=False)


def frames() -> dict[str, bytes]:
    """FRAMES images in shards and single files, by name."""
    return face_shards(FRAMES, 50)

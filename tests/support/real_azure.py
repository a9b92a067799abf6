"""An Azure Blob Storage server on this machine: Azurite, with its blobs in a folder."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from places import ROOT
from real_s3 import BUCKET

AZURITE = ROOT / "tests" / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
"""The server. `make azurite` installs it."""

ACCOUNT, KEY = "faceqtests", "ZmFjZXEtdGVzdHMtYXp1cmUta2V5"


def connection_string(address: str) -> str:
    """What clients need to use a server at an address."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={address}/{ACCOUNT};"
    )


@contextlib.contextmanager
def real_azure(port: int, folder: Path) -> Iterator[str]:
    """Start a server with one container. Returns the `az://` URI of the container."""
    command = ["node", str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(folder / "data"), "--silent", "--skipApiVersionCheck"]
    keys = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **keys})
    try:
        _make_container(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"az://{BUCKET}"
    finally:
        server.kill()  # it would wait for its clients to close their connections
        server.wait(30)


def _make_container(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - an extra
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415

    deadline = time.monotonic() + 60
    while True:
        try:
            with BlobServiceClient.from_connection_string(connection_string(address)) as client:
                client.create_container(BUCKET, retry_total=0)
            return
        except AzureError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {error} {log.read_text()[-2000:]}") from None
            time.sleep(0.3)

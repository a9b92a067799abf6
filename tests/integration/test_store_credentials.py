"""Stores whose credentials are missing, wrong or expired, whose package is not installed, or that are other
servers: the error says what to do."""

import itertools
import json
import sys

import pytest
import real_azure
from bad_endpoints import web_server
from hub import DATASET, hub
from web import Manners, web

from faceq.errors import StorageError, UsageError
from faceq.sources import read_shards
from faceq.sources.listing import list_shards
from faceq.storage import http_requests
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

S3 = S3Settings()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_requests, "_FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs"), ("abfs", "adlfs")])
def test_a_store_that_is_not_installed_names_its_extra(scheme, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)  # it would be found without its package
    for name in ("gcs_files", "azure_files"):
        monkeypatch.delitem(sys.modules, f"faceq.storage.{name}", raising=False)
    extra = {"gcsfs": "gcs", "adlfs": "azure"}[package]
    with pytest.raises(UsageError, match=rf'{package}, which is not .*pip install "faceq\[{extra}\]"'):
        filesystem(f"{scheme}://bucket/in", S3)


def test_a_wrong_key_of_azure_is_access_denied(azure, monkeypatch):
    kind = type(filesystem(azure, S3))
    wrong = real_azure.connection_string(address_of_azure()).replace("AccountKey=Zm", "AccountKey=AAAA")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
    kind.clear_instance_cache()
    try:
        with pytest.raises(StorageError, match=r"access denied: .*set AZURE_STORAGE_ACCOUNT_NAME"):
            list_shards([f"{azure}/in"], S3)
    finally:
        kind.clear_instance_cache()


def address_of_azure() -> str:
    return filesystem("az://x", S3).service_client.url.rpartition(f"/{real_azure.ACCOUNT}")[0]


def test_azure_without_an_account_is_wrong_usage(monkeypatch):
    pytest.importorskip("adlfs", reason="the extra azure is not installed")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    from faceq.storage.azure_files import AzureFiles  # noqa: PLC0415 - an extra

    AzureFiles.clear_instance_cache()
    with pytest.raises(UsageError, match=r"no account can be used: .*set AZURE_STORAGE_ACCOUNT_NAME"):
        filesystem("az://container/in", S3)
    with pytest.raises(UsageError, match="give only az://CONTAINER/NAME"):
        filesystem("abfs://container@account.dfs.core.windows.net/in", S3)


GOOGLE = {
    401: "Anonymous caller does not have storage.objects.list access to the Google Cloud Storage bucket.",
    403: "me@example.com does not have storage.objects.list access to the Google Cloud Storage bucket.",
    429: "The rate of requests exceeds the limit.",
}


@pytest.mark.parametrize("status", GOOGLE)
def test_google_says_who_may_not_do_what(status, monkeypatch):
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    said = json.dumps({"error": {"code": status, "message": GOOGLE[status]}}).encode()
    with web({}, lambda asked: Manners(status=status, body=said)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        with pytest.raises(StorageError) as error:
            list_shards(["gs://bucket/in"], S3)
    text = str(error.value)
    assert GOOGLE[status] in text and "cannot be listed" in text
    assert ("GOOGLE_APPLICATION_CREDENTIALS" if status != 429 else "busy or down") in text


OTHER_PAGES = (b"<html>Welcome</html>", b"{}", b"[]", b"")


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        *itertools.product(("gs://bucket/in", "az://container/in"), OTHER_PAGES),
        # `[]` is the hub's listing of an empty folder.
        *((f"hf://{DATASET}/in", page) for page in OTHER_PAGES if page != b"[]"),
    ],
)
def test_a_server_that_is_no_store_is_not_an_empty_bucket(uri, page, monkeypatch):
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    from faceq.storage.azure_files import AzureFiles  # noqa: PLC0415 - an extra

    with web_server(200, page) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        text = real_azure.connection_string(address)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        AzureFiles.clear_instance_cache()
        with pytest.raises(StorageError, match="responds, but not like"):
            list_shards([uri, f"{uri}/*"], S3)
        table = Table(f"{uri}/table", S3)
        with pytest.raises(StorageError, match="responds, but not like"):
            table.exists()
    AzureFiles.clear_instance_cache()


def test_a_dataset_that_needs_a_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub(token="hf_right-token") as server:
        server.files |= {"in/a.jpg": b"\xff\xd8\xff", "in/b.tar": b"not a tar"}
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        for token in ("", "hf_wrong-token"):
            monkeypatch.setenv("HF_TOKEN", token)
            with pytest.raises(StorageError, match=r"access denied: HTTP 401.*set HF_TOKEN") as error:
                list_shards([f"hf://{DATASET}/in"], S3)
            assert "hf_wrong" not in str(error.value)
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "token").write_text("hf_right-token\n")
        shards = list_shards([f"hf://{DATASET}/in"], S3)
        # The hub refuses the token at the address to which it redirects.
        frames = {frame.source.rpartition("/")[2]: frame for frame in read_shards(shards, S3)}
        assert frames["a.jpg"].image == b"\xff\xd8\xff" and "not a valid tar" in frames["b.tar"].error


def test_other_things_on_the_hub_are_wrong_usage():
    with pytest.raises(UsageError, match="hf://datasets/OWNER/NAME/PATH"):
        list_shards(["hf://models/owner/name"], S3)

"""Secrets that a job is given anywhere do not appear in anything that it leaves behind."""

import pickle
import re
from pathlib import Path

import botocore.exceptions
import pyarrow.parquet as pq
import pytest
from places import PHOTOS
from planted import KEYS, PLANTED, SIGNED

from faceq import config
from faceq.cli import main
from faceq.errors import UsageError
from faceq.messages.masking import holds_secret, mask, mask_error
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.table.schema import record_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host:9/x", "http://***@host:9/x"),
        ("at 'https://token@host/simple':", "at 'https://***@host/simple':"),
        ("http://user:p@ss'word@host", "http://***@host"),
        ("s3://AKIA:se/cr+et@bucket/key", "s3://***@bucket/key"),
        ("https://host/a.jpg?sv=2026&sig=abc%3D: no", "https://host/a.jpg?***: no"),
        (f"s3://b/k.jpg?{SIGNED}", re.sub(r"=[^&]+", "=***", f"s3://b/k.jpg?{SIGNED}")),
        ("for url: /a?X-Goog-Signature=abc&x=1 (", "for url: /a?X-Goog-Signature=***&x=1 ("),
        ("exceeded with url: /a?code=abc (Caused", "exceeded with url: /a?*** (Caused"),
    ],
)  # fmt: skip
def test_a_secret_in_a_text_is_masked(text, expected):
    assert mask(text) == expected and mask(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/user@example.com/a.jpg", "http://host:8080/a@b", "http://[::1]:9000/a@b"),
        *("file:///a:b/c@d.jpg", "/frames/what?now&then.jpg", "mail@example.com: 3 = 1 + 2?", "s3://b/a:b@c"),
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/name/key",
    ],
)
def test_names_without_secrets_stay_as_they_are(text):
    assert mask(text) == text and not holds_secret(text)


def test_keys_of_the_environment_are_masked_wherever_they_occur(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert (
        mask(f"header {KEYS['AWS_SESSION_TOKEN']}, {PLANTED}Proxy, AKIAEXAMPLE")
        == "header ***, ***, AKIAEXAMPLE"
    )


def test_the_key_in_a_connection_string_is_masked(monkeypatch):
    text = f"AccountName=a;AccountKey={PLANTED}Azure;BlobEndpoint=http://h"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert mask(f"wrong key {PLANTED}Azure of a") == "wrong key *** of a" and mask(text) == "***"


def test_errors_hold_no_secrets_in_another_process_either():
    error = UsageError(f"https://user:{PLANTED}@host/: no")
    assert PLANTED not in str(error) and PLANTED not in str(pickle.loads(pickle.dumps(error)))
    endpoint = f"http://user:{PLANTED}@host:9000/bucket"
    of_botocore = botocore.exceptions.EndpointConnectionError(endpoint_url=endpoint)
    mask_error(of_botocore)
    for each in (of_botocore, pickle.loads(pickle.dumps(of_botocore))):
        assert "http://***@host:9000/bucket" in str(each)


# --- commands that fail ---------------------------------------------------------------------------


@pytest.fixture
def keys(monkeypatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def _file(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def _score(folder: Path, *more: str) -> list[str]:
    return ["score", "--out", str(folder / "t"), *more]


def _by_settings(folder: Path, source: str, text: str) -> list[str]:
    return _score(folder, source, "--config", _file(folder, "job.yaml", text))


def _by_manifest(folder: Path, place: str) -> list[str]:
    return _score(folder, "--manifest", _file(folder, "list.csv", f"uri\n{place}\n"))


PICTURES = str(PHOTOS)
KEYED = f"s3://AKIA:{PLANTED}/x@bucket"
DOWN = f"s3: {{endpoint_url: 'http://user:{PLANTED}@127.0.0.1:9', anonymous: true}}"
REFUSED = {
    "a signed manifest": lambda to: _by_manifest(to, f"gs://b/k.jpg?{SIGNED}"),
    "a signed key in a manifest": lambda to: _by_manifest(to, f"s3://b/k.jpg?{SIGNED}"),
    "a signed input": lambda to: _score(to, f"az://c/k.jpg?sig={PLANTED}"),
    "a key in an input": lambda to: _score(to, f"{KEYED}/in"),
    "a key in the table's place": lambda to: ["score", PICTURES, "--out", f"{KEYED}/table"],
    "a key in a table to read": lambda to: ["query", f"{KEYED}/table", "serfiq > 0"],
    "a wrong number": lambda to: _score(to, PICTURES, "--fps", KEYED),
    "an unknown option": lambda to: _score(to, PICTURES, "--outt", KEYED),
    "a wrong setting": lambda to: _by_settings(to, PICTURES, f"s3: 'http://user:{PLANTED}@host'"),
    "a store that is down": lambda to: _by_settings(to, "s3://bucket/in", DOWN),
    "a model by its address": lambda to: _score(
        to, PICTURES, "--recogniser", f"https://u:{PLANTED}@h/m.onnx"
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_no_secret(keys, tmp_path, capsys, monkeypatch, case):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    try:
        status = main.main(REFUSED[case](tmp_path))
    except SystemExit as ended:  # argparse
        status = ended.code
    said = capsys.readouterr()
    assert status == (1 if case == "a store that is down" else 2)
    assert "***" in said.err and PLANTED not in said.err + said.out


def test_mirrors_that_fail_are_named_without_their_credentials(keys, model_dir, monkeypatch):
    entry = zoo.Model("probe", "test", "probe.bin", "0" * 64, 1, "none", ("file:///not/there",))
    monkeypatch.setitem(zoo.MODELS, "probe", entry)
    monkeypatch.setenv("FACEQ_MODEL_MIRROR", f"http://user:{PLANTED}@127.0.0.1:9/zoo")
    mirrors = (f"https://models.invalid/zoo?code={PLANTED}", f"{KEYED}/zoo")
    with pytest.raises(zoo.ModelError) as failed:
        fetch("probe", FetchOptions(mirrors=mirrors))
    told = str(failed.value)
    assert PLANTED not in told and "http://***@127.0.0.1:9/zoo" in told and "models.invalid/zoo?***" in told


def test_an_unexpected_error_is_printed_without_secrets(keys, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError(f"at http://user:{PLANTED}@host")

    monkeypatch.setattr(config, "load", fail)
    assert main.main(["score", PICTURES, "--out", "t"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "RuntimeError: at http://***@host" in said and PLANTED not in said


# --- jobs -----------------------------------------------------------------------------------------


def test_a_footer_has_the_settings_that_decide_values_and_no_paths(looked_at):
    found = [
        record_of(pq.ParquetFile(path).schema_arrow) for path in Path(looked_at).glob("status=*/*.parquet")
    ]
    for footer in found:
        assert {"input", "manifest", "out", "s3", "model_mirrors", "accept_licence"}.isdisjoint(
            footer["config"]
        )
        assert footer["version"] and footer["models"]["yunet"]["sha256"] and footer["calibration"]
        assert footer["config"]["det_threshold"] == footer["det_threshold"] == 0.6
    assert found

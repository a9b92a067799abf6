"""The token of a local Ray if the home directory is not writable."""

import os
from pathlib import Path

import pytest

from faceq.job import local_ray


def test_a_token_in_the_environment_is_removed_with_its_ray_and_created_again(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("not a directory")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    tokens = []
    for _ in range(2):
        with local_ray.token_in_environment():
            local_ray._keep_token_private()
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert tokens[0] == tokens[1] and len(tokens[0]) == 64


def test_a_token_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with local_ray.token_in_environment():
        local_ray._keep_token_private()
    assert os.environ["RAY_AUTH_TOKEN"] == "mine"

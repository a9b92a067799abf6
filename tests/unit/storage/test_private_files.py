"""Partial files are in folders where no other user can read them or plant a link."""

import os

import pytest

from faceq.storage.private_files import private_folder


def test_a_private_folder_stays_after_an_error_only(tmp_path):
    place = tmp_path / ".a.part"
    with pytest.raises(ValueError, match="broke off"), private_folder(place) as folder:
        (folder / "half").write_bytes(b"half")
        raise ValueError("broke off")
    with private_folder(place) as folder:
        assert folder == place and (folder / "half").read_bytes() == b"half"
    assert os.listdir(tmp_path) == []

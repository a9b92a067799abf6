"""The public names of `faceq`, and the error classes of all modules."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import faceq
from faceq.errors import FaceqError


def test_every_public_name_is_there_and_listed():
    assert dir(faceq) == faceq.__all__ == sorted(faceq.__all__)
    assert all(getattr(faceq, name) for name in faceq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Score'"):
        faceq.Score  # noqa: B018


def test_importing_faceq_imports_none_of_its_modules():
    code = "import sys, faceq; print([name for name in sys.modules if name.startswith('faceq.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_error_class_is_a_faceq_error():
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(faceq.__path__, "faceq.")
        if found.name != "faceq.__main__"  # importing it runs a command
    ]
    classes = {
        each
        for module in modules
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Exception) and each.__module__.startswith("faceq.")
    }
    assert len(classes) > 15
    assert [each for each in classes if not issubclass(each, FaceqError)] == []


def test_public_errors_are_those_that_the_modules_raise():
    """A public name is the same class in every module."""
    public = {getattr(faceq, name) for name in faceq.__all__ if name.endswith("Error")}
    names = {each.__name__ for each in public}
    for found in pkgutil.walk_packages(faceq.__path__, "faceq."):
        if found.name == "faceq.__main__":
            continue
        for name, each in inspect.getmembers(importlib.import_module(found.name), inspect.isclass):
            assert name not in names or each in public, (found.name, name)

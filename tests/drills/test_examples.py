"""The scripts and the notebook of examples/, run on the files of `make demo`."""

import csv
import os
import sys
from pathlib import Path

import nbformat
import pytest
from documents import run
from nbclient import NotebookClient
from places import ROOT

import faceq

FILTER = "serfiq >= 0.6 and dbcnn >= 55"


@pytest.fixture
def good(after_make_demo) -> tuple[Path, list[str]]:
    """The folder, and the names of the demo's frames that pass the filter."""
    folder, _ = after_make_demo
    members = faceq.read_table(str(folder / "demo" / "table"), FILTER, ["member"])["member"].to_pylist()
    assert members
    return folder, sorted(members)


@pytest.mark.parametrize("name", ["pytorch_dataset", "webdataset_loader", "hf_datasets", "ray_data"])
def test_an_example_prints_frames_of_the_demo(good, monkeypatch, name):
    folder, members = good
    monkeypatch.setenv("RAY_ADDRESS", "local")  # otherwise Ray joins a running Ray on this machine
    outcome = run([sys.executable, f"examples/{name}.py", "demo/table"], folder)
    assert outcome.status == 0, outcome.printed[-3000:]
    assert any(member in outcome.out for member in members), outcome.printed
    assert "skipped" not in outcome.out


@pytest.mark.timeout(600)
def test_the_notebook_goes_from_the_demos_images_to_a_filtered_set(good, monkeypatch, tmp_path):
    folder, members = good
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    os.makedirs(tmp_path / "jupyter_runtime_dir")
    notebook = nbformat.read(ROOT / "examples" / "filter_faces.ipynb", as_version=4)
    assert all(not cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    plots = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(plots) == 7
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
    with open(folder / "good.csv", newline="", encoding="utf-8") as file:
        assert sorted(row["image"] for row in csv.DictReader(file)) == members
    assert sorted(path.name for path in (folder / "good").iterdir()) == members

"""docs/architecture.md, the import contract and the folders agree."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _there() -> set[str]:
    """Folders and modules of the package, with their names in the contract."""
    inside = (ROOT / "faceq").iterdir()
    names = {path.stem for path in inside if path.suffix == ".py" or any(path.glob("*.py"))}
    return names - {"__init__", "__main__"}


def _layers_of_the_map() -> list[set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    layers: dict[int, set[str]] = {}
    for number, names in rows:
        layers.setdefault(int(number), set()).update(re.findall(r"`(\w+)(?:/|\.py)`", names))
    return [layers[number] for number in sorted(layers)]


def _layers_of_the_contract() -> list[set[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def test_the_map_shows_the_existing_rooms_in_the_layers_of_the_contract():
    there = _there()
    on_the_map, in_the_contract = (
        [layer & there for layer in layers] for layers in (_layers_of_the_map(), _layers_of_the_contract())
    )
    assert on_the_map == in_the_contract
    assert set.union(*on_the_map) == there


def test_the_map_shows_the_other_folders_of_the_clone():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE))
    assert shown and all((ROOT / name).is_dir() for name in shown)


def test_each_decision_is_in_the_list_of_decisions():
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


@pytest.mark.parametrize(
    "page",
    [
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/explanation/guarantees.md",
        "docs/decisions",
    ],
)
def test_the_files_that_a_page_names_are_there(page):
    pages = sorted((ROOT / page).glob("*.md")) if (ROOT / page).is_dir() else [ROOT / page]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r"`([\w/.-]+/[\w.-]*\.(?:py|md|yaml|txt|toml))`", text))
    missing = {name for name in named if not (ROOT / name).exists() and not (ROOT / "faceq" / name).exists()}
    assert named and not missing

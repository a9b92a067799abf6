"""What commands import: they must start fast."""

import subprocess
import sys

import pytest

NETWORKS = {"torch", "onnxruntime", "onnx", "cv2"}
HEAVY = {*NETWORKS, "ray", "duckdb", "pyarrow", "numpy", "pydantic", "yaml", "fsspec", "rich"}


def imported(*arguments: str) -> set[str]:
    """The packages that a command has imported by its end."""
    code = (
        "import sys\nfrom faceq.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["plan", "--frames", "9", "--gpu", "g5"]])
def test_commands_without_settings_import_no_heavy_package(arguments):
    assert imported(*arguments) & HEAVY == set()


@pytest.mark.parametrize("command", ["score", "query", "report", "inspect", "compact", "evaluate", "models"])
def test_the_help_of_a_command_imports_no_networks_no_ray_and_no_duckdb(command):
    assert imported(command, "--help") & {*NETWORKS, "ray", "duckdb"} == set()


def test_a_query_imports_no_networks_and_no_ray(looked_at):
    assert imported("query", looked_at, "--count") & {*NETWORKS, "ray"} == set()


def test_a_dry_run_imports_no_networks_runtime_and_no_ray(frames_in, tmp_path):
    given = ("score", str(frames_in), "--out", str(tmp_path / "table"), "--dry-run")
    assert imported(*given) & {"torch", "ray", "duckdb"} == set()

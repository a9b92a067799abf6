# Every target sets up what it needs. PYTHON must be 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-drills bench lint wheel clean

demo: $(READY)  ## score demo shards made of photos that installed packages ship (about two minutes)
	$(BIN)/python -m jobs.demo demo

test: $(READY)  ## the tests of the parts and of whole jobs, with a real S3 server on this machine
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-drills: $(READY)  ## kills, full disks, clusters that grow: the second command ends every Ray on the machine
	$(BIN)/python -m pytest tests/drills
	$(BIN)/python -m pytest tests/drills -m alone

bench: $(READY)  ## frames/s beside a loop without Ray and beside CAFI as published, as one table
	$(BIN)/python -m jobs.benchmarks.throughput

lint: $(READY)  ## style, types, imports between rooms, dependencies, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/deptry faceq --optional-dependencies-dev-groups train,bench,examples,dev
	$(BIN)/codespell

wheel: $(READY)  ## the wheel and the source archive in dist/, checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# constraints.txt holds the versions that the tests ran with; pyproject.toml the ranges that users get.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed: make PYTHON=..., not {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist

# Every target sets up its own requirements. PYTHON must be 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AZURITE := tests/azurite/node_modules/.ready

# The timeout of each test (pyproject.toml) raises an exception in it. If its clean-up waits forever, this one
# prints the stacks of all threads and ends the run.
WATCHDOG := -o faulthandler_timeout=1000 -o faulthandler_exit_on_timeout=true --max-worker-restart 0

.PHONY: demo test test-drills bench lint docs wheel azurite clean

demo: $(READY)  ## score demo shards, made from photos in installed packages (about two minutes)
	$(BIN)/python -m jobs.demo demo

test: $(READY) azurite  ## unit and integration tests, with local servers of the stores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(WATCHDOG)

test-drills: $(READY) azurite  ## kills, full disks, growing clusters; the second command stops every Ray process on the machine
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/drills
	$(BIN)/python -m pytest tests/drills -m alone

bench: $(READY)  ## frames/s of the job, of the machine's limit and of CAFI, and the time of each step (about six minutes)
	$(BIN)/python -m jobs.benchmarks.throughput

lint: $(READY)  ## check style, types, imports between rooms, dependencies and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/deptry faceq --optional-dependencies-dev-groups train,bench,docs,examples,dev
	$(BIN)/codespell

docs: $(READY)  ## build the docs site in site/; fail on broken links, stale generated pages, undocumented public names
	$(BIN)/python -m jobs.docs_site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(READY)  ## build and check the wheel and the source archive in dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# constraints.txt holds the tested versions, pyproject.toml the supported ranges.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed: make PYTHON=..., not {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

azurite: $(AZURITE)  ## the server of the tests of Azure (360 MB); if npm cannot install it, these tests are skipped

$(AZURITE): tests/azurite/package.json
	mkdir -p $(@D)
	if npm install --prefix tests/azurite --no-package-lock --ignore-scripts --no-audit --no-fund --silent; then \
	touch $@; else echo "npm cannot install Azurite: the tests of Azure are skipped"; fi

clean:
	rm -rf $(VENV) tests/azurite/node_modules demo build dist site

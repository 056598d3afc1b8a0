# make demo   sets everything up in .venv and runs the main job on handwritten digits (CPU, under 3 minutes after set-up)
# make test   sets up what is missing and runs the tests, the linter and the type checker, and builds the documentation
# make docs   builds the documentation into site/, with warnings as errors; `make tutorial` runs docs/tutorial.py for its page
# make dist   builds sdist and wheel into dist/ and checks them
# make test-lowest   runs the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest (Python 3.11)
# make test-newest   runs them with the newest versions there are, in .venv-newest; PYTHON=python3.13 names the Python
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test test-fast test-lowest test-newest lint types docs tutorial dist format clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; give it by `make PYTHON=python3.12 ...`")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	# What pip would do on one core; files for other Pythons, which some packages hold, can't be compiled.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib lightning_noisy || true
	touch $@

demo: $(READY)
	$(BIN)/python recipes/demo.py

## Hundreds of processes read the same files: Python keeps what it has compiled.
test test-fast: export PYTHONDONTWRITEBYTECODE =

test: $(READY)
	$(MAKE) --jobs lint types docs
	$(BIN)/python -m pytest -n 3
	$(BIN)/python -m pytest -m slow -n 3 --dist loadfile

test-fast: $(READY)
	$(BIN)/python -m pytest -n 3

test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) .ci/lowest_versions.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --editable '.[dev]' --constraint .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pytest -n 3

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-newest/bin/python -m pytest -n 3

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

tutorial: $(READY)
	$(BIN)/python docs/tools/tutorial_page.py

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis runs site dist

# make demo   the whole main job on bundled examples: no GPU, no downloads but the packages
# make app    the same in the browser
# make test   everything that is checked
# make test-recipes  recipes read by the other trainers' own parsers, and TRL's run (550 MB)
# make bench  how long things take here

PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' requirements.txt)

.PHONY: demo app test test-recipes bench clean

demo: .venv/installed
	$(BIN)/tuneplan demo

app: .venv/installed
	$(BIN)/tuneplan app

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	TUNEPLAN_CHROMIUM="$$(sh tests/find_chromium.sh)" $(BIN)/pytest -n 2 --dist loadgroup

test-recipes: .venv/installed
	$(BIN)/python tests/recipes_check/run.py

bench: .venv/installed
	$(BIN)/python bench/speed.py

clean:
	rm -rf .venv out build *.egg-info

# torch comes first and alone, so that an index with a build for this machine's CPU or GPU decides.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

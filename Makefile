# Needs Python 3.11 or newer, git and make. Everything is installed into .venv, once for each set of parts.
# PIP_ARGS goes to every pip install: another index, a folder of wheels.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_ARGS ?=
WORKERS ?= 2
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
PARTS := pyproject.toml constraints.txt
# One thread a worker: more of them on the same cores only wait for each other.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

.PHONY: train test test-all lint bench clean

train: $(VENV)/.train
	$(PY) -m gcoord.train n_agents=4

# Tests of the report's page open it in Chromium (apt-get install chromium, or CHROMIUM=its path) and are skipped without.
test: $(VENV)/.test
	$(PYTEST) -m "not full"

test-all: $(VENV)/.test
	$(PYTEST)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy gcoord

bench: $(VENV)/.test
	$(PY) benchmarks/run.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find gcoord tests benchmarks experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"expected Python 3.11 or newer (got {sys.version.split()[0]}); set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(PY) $(PARTS)
	$(INSTALL) -e '.[vmas]'
	touch $@

$(VENV)/.test: $(PY) $(PARTS)
	$(INSTALL) -e '.[test]'
	touch $@ $(VENV)/.train

$(VENV)/.dev: $(PY) $(PARTS)
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.test $(VENV)/.train

# From an empty checkout: `make test` is everything CI runs, `make demo` shows the product at work.
# PYTHON=... chooses the interpreter; the newest one that works is taken otherwise.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# mkfs.ext4 and debugfs live where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

WORKS = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	if $$python -c '$(WORKS)' 2>/dev/null; then echo $$python; break; fi; done)

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: lint types ## everything that CI runs, from nothing installed
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target unit integration system

.PHONY: lint
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/installed
	$(BIN)/mypy

PYTEST_RUN = $(BIN)/python -m pytest -m "tier1 or tier2" $(PYTEST)

.PHONY: unit
unit: $(VENV)/installed tools ## tests of single parts
	$(PYTEST_RUN) tests/unit tests/contract

.PHONY: integration
integration: $(VENV)/installed tools ## tests of parts together, and of faults
	$(PYTEST_RUN) tests/integration tests/fault

# Beside the others, because a scheduler waits more than it works.
.PHONY: system
system: $(VENV)/installed tools ## tests of a real Airflow
	$(PYTEST_RUN) tests/system

.PHONY: coverage
coverage: $(VENV)/installed tools ## which branches the tests take; slow, so not a part of `make test`
	$(BIN)/python -m coverage run -m pytest -m "tier1 or tier2" $(PYTEST)
	$(BIN)/python -m coverage report --skip-covered --sort=cover

.PHONY: format
format: $(VENV)/installed ## rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: tools
tools:
	@for tool in mkfs.ext4 debugfs; do command -v $$tool >/dev/null || { \
	  echo "$$tool is missing: test and demo guests are real ext4 file systems; install e2fsprogs" >&2; \
	  exit 1; }; done

.PHONY: python
python:
	@test -n "$(PYTHON)" || { \
	  echo "no Python 3.11 to 3.14 with venv and ensurepip on PATH: install one (on Debian python3-venv" \
	    "as well), or name it with PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(WORKS)' || { \
	  echo "$(PYTHON) does not do: Python 3.11 to 3.14 with venv and ensurepip is needed" >&2; exit 1; }

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt | python
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: demo
demo: $(VENV)/installed tools ## two backups by a real Airflow from an emulated stack, read back and compared
	$(BIN)/python -m demo

.PHONY: ui
ui: $(VENV)/installed tools ## the same, and leave it running: prints address and login
	$(BIN)/python -m demo --ui

# EXECUTOR=celery needs redis-server; EXECUTOR=local,edge has one host without a worker. KILL=1 kills
# a worker in mid-stream, FREEZE=1 freezes it, OUTAGE=120 takes the API server away for two minutes.
EXECUTOR := edge
HOSTS := 2
.PHONY: hosts
hosts: $(VENV)/installed tools ## backup hosts with workers of their own: EXECUTOR=edge|celery, HOSTS=2, KILL=1...
	$(BIN)/python -m demo.hosts --executor $(EXECUTOR) --hosts $(HOSTS) \
	  $(if $(KILL),--kill) $(if $(FREEZE),--freeze) $(if $(OUTAGE),--outage $(OUTAGE))

CLEAN := .venv-clean
.PHONY: constraints
constraints: | python ## pin anew what a clean installation takes today
	rm -rf $(CLEAN)
	$(PYTHON) -m venv $(CLEAN)
	$(CLEAN)/bin/python -m pip install --quiet '.[dev]'
	{ sed -n '/^#/p' constraints.txt; \
	  $(CLEAN)/bin/python -m pip freeze --all --exclude pip \
	    --exclude airflow-provider-azstack; } > $(CLEAN)/constraints.txt
	mv $(CLEAN)/constraints.txt constraints.txt
	rm -rf $(CLEAN)

.PHONY: wheel
wheel: | python ## build the wheel, install it into a clean environment and ask Airflow about it
	rm -rf $(CLEAN) dist build
	$(PYTHON) -m venv $(CLEAN)
	$(CLEAN)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(CLEAN)/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(CLEAN) && AIRFLOW_HOME=$$PWD/airflow bin/airflow providers list --output plain \
	  | grep airflow-provider-azstack
	cd $(CLEAN) && AIRFLOW_HOME=$$PWD/airflow bin/airflow azstack --help
	rm -rf $(CLEAN)

.PHONY: clean
clean: ## remove everything that the other targets made
	rm -rf $(VENV) $(CLEAN) .demo build dist *.egg-info htmlcov .coverage .coverage.* \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

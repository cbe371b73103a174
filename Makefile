# Everything runs in .venv, which the first target makes; see `make help`.

PYTHON ?= python3
PYTEST_FLAGS ?=
# A process a core; the tests of a file stay together, since they share what the first of them made.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile
VENV := .venv
SHELL := /bin/bash
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install study test thorough check bench replay format clean
.NOTPARALLEL:

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Another Python, of 3.11 to 3.13: make install PYTHON=python3.12"

install: $(INSTALLED) ## Make .venv and install Retort and what it needs into it.

study: $(INSTALLED) ## Run the default study, 20 trainings an arm; again: finish it, or do nothing.
	$(BIN)/python study.py --trials 20

test: $(DEVELOPED) ## Run all tests, on all cores; on one: make test PYTEST_FLAGS=-n0.
	$(BIN)/pytest $(PARALLEL) $(PYTEST_FLAGS)

thorough: $(DEVELOPED) ## Run the long tests that `make test` leaves out; the log is in thorough.log.
	$(BIN)/pytest -m thorough -v $(PYTEST_FLAGS) 2>&1 | tee thorough.log; exit $${PIPESTATUS[0]}

check: $(DEVELOPED) ## Check format, lint, types and the repository's own rules, as CI does.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest $(PARALLEL) tests/test_repository.py tests/test_architecture.py

bench: $(DEVELOPED) ## Measure speed, which wants an idle machine, and write docs/benchmarks.md.
	$(BIN)/python -m tests.benchmarks

replay: $(DEVELOPED) ## Replay searches over recorded learning curves, without training; writes docs/replay.md.
	$(BIN)/python -m tests.replay.replay

format: $(DEVELOPED) ## Format the code, and mend what ruff can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv, builds and tools' caches; studies in runs/ stay.
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "Retort needs Python 3.11 to 3.13, and $(PYTHON) is none of them"; \
		echo "Name another, as in: make install PYTHON=python3.12"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --editable .
	@touch $@

$(DEVELOPED): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --editable '.[dev]'
	@touch $(INSTALLED) $@

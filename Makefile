# Both targets do all their own set-up; they need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help compare test lint types bench-core clean
.DEFAULT_GOAL := help

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Locklane needs Python 3.11 or newer; set PYTHON=... to one")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench,dev]'
	touch $@

compare: $(INSTALLED)  ## Price the lock transports per dropped file and write a report below reports/
	$(BIN)/locklane compare $(ARGS)

test: $(INSTALLED) lint types  ## Lint, types and all tests
	$(BIN)/pytest $(ARGS)

lint: $(INSTALLED)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## Static types
	$(BIN)/mypy

bench-core: $(INSTALLED)  ## How fast and how small the lock manager is
	$(BIN)/python -m locklane_bench.lockcore

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

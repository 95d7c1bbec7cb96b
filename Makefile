# Both targets do all their own set-up; they need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KILLS ?= 100
LOCKLANE_SEED ?= $(shell date +%s)

.PHONY: help compare peer soak test crash field lint types bench-core reference peer-reference clean fuzz fuzz-api
.DEFAULT_GOAL := help

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Locklane needs Python 3.11 or newer; set PYTHON=... to one")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,dev]'
	touch $@

compare: $(INSTALLED)  ## Price the lock transports per dropped file, in 3 minutes, and write a report below reports/
	$(BIN)/locklane compare $(ARGS)

peer: $(INSTALLED)  ## Measure Locklane and git annex p2phttp side by side and write a report below reports/
	$(BIN)/locklane compare --peer git-annex $(ARGS)

soak: $(INSTALLED)  ## Ten minutes of mixed load: do memory, descriptors and threads stay flat? A report below reports/
	$(BIN)/locklane soak $(ARGS)

test: $(INSTALLED) lint types  ## Lint, types and all tests
	$(BIN)/pytest --numprocesses=auto --dist=loadscope --no-loadscope-reorder $(ARGS)

crash: $(INSTALLED)  ## Kill the server 100 times under load, on each kind of repository (KILLS, LOCKLANE_SEED)
	LOCKLANE_KILLS=$(KILLS) LOCKLANE_SEED=$(LOCKLANE_SEED) $(BIN)/pytest -s tests/test_crash.py $(ARGS)

field: $(INSTALLED)  ## The scenarios from the field in the sizes that were reported
	LOCKLANE_FULL_SIZE=1 $(BIN)/pytest --verbose tests/test_field_*.py $(ARGS)

lint: $(INSTALLED)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## Static types
	$(BIN)/mypy

# atheris looks where an input leads, which hypothesis does not; but it is there for few machines
# and Pythons, so `make test` does without it.
FUZZ_SECONDS ?= 60

fuzz: $(INSTALLED)  ## Fuzz every parser for FUZZ_SECONDS (60) each, or those in FUZZ_TARGETS
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python -m fuzzing --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

API_EXAMPLES ?= 200

fuzz-api: $(INSTALLED)  ## Ask a server of each kind what the API's description allows, API_EXAMPLES (200) times each request
	API_EXAMPLES=$(API_EXAMPLES) $(BIN)/pytest -k schemathesis tests/test_openapi.py

bench-core: $(INSTALLED)  ## How fast and how small the lock manager is
	$(BIN)/python -m locklane_bench.lockcore

build/python-library: | $(INSTALLED)
	$(BIN)/python -m locklane_bench.sample $@

reference: $(INSTALLED) build/python-library  ## Make the reference report again, from a git-annex repository
	$(BIN)/locklane compare --preset full --keys-from build/python-library --report reports/reference
	$(BIN)/python -m locklane_bench.readme reports/reference/report.md README.md

peer-reference: $(INSTALLED)  ## Make the side-by-side report of reference again
	$(BIN)/locklane compare --peer git-annex --report reports/git-annex $(ARGS)

clean:  ## Remove the environment and caches
	test ! -d build || chmod -R u+w build
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Two commands matter: `make verify` and `make test`. Each sets up what it needs on a machine with only Python and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Set by many container images. Every process would then compile torch anew: four seconds each, in hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup verify test share coverage nightly mutants speed check format types imports bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## create the virtual environment and install everything (once)

# torch first and from the constraints file: any other way may pull a build of several gigabytes. Not compiled: most modules
# are never imported, and the rest is compiled when it is; that halves the time.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gradgate needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch and the project into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

verify: $(READY)  ## train and verify the bundled two-stage trainer: about two minutes to a verdict
	@$(BIN)/gradgate verify --profile quick

test: $(READY)  ## the tests on all cores, with branch coverage of gradgate and wmtp
	@rm -f .coverage .coverage.*
	@OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q -n auto --dist loadgroup
	@$(MAKE) --no-print-directory coverage

share: $(READY)  ## a share of the tests, GRADGATE_SHARE=1of2; what they cover is left for `make coverage`
	@OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q -n auto --dist loadgroup

# The pages are written while the totals are taken.
coverage: $(READY)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage html --quiet & pages=$$!; \
	$(BIN)/python -m coverage json --quiet -o - | $(BIN)/python -m benchmarks.coverage_totals; code=$$?; \
	wait $$pages && exit $$code

nightly: $(READY)  ## all tests, the slow ones too
	@GRADGATE_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup

mutants: $(READY)  ## the tests of statistics and judging under mutation: which changes of the code no test notices
	@$(BIN)/python -m benchmarks.mutants

speed: $(READY)  ## plots, host memory and the paired gate against GRADGATE_BASE_REF (HEAD~1), into reports/
	@mkdir -p reports
	@GRADGATE_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q suites/speed suites/memory --benchmark-json=reports/speed.json

check: $(READY) format types imports  ## format, lint, types, import contracts and the fast tests
	@$(BIN)/gradgate scan wmtp
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -x suites/unit

format: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY)
	@$(BIN)/mypy

imports: $(READY)
	@$(BIN)/lint-imports

bench: $(READY)  ## the performance claims, interleaved, as ratios with their spread
	@$(BIN)/python -m benchmarks

docs: $(READY)  ## write the rules' pages from the checks' docstrings
	@$(BIN)/python -m gradgate.report.pages docs/rules

clean:  ## remove what make created
	@rm -rf $(VENV) reports/coverage reports/*.json .coverage .coverage.* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Every target does the set-up it needs; the first one on a fresh machine makes .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

REQUIREMENTS := requirements.txt requirements-evaluate.txt requirements-review.txt requirements-cohort.txt \
	requirements-train.txt requirements-dev.txt

# One thread for each of the test workers: torch would otherwise start one per core in every worker. Workers and the
# programs that they start read each other's compiled modules, whatever the environment says of these.
TEST_WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all check bench bench-training bench-registration bench-cohort container runner clean

help:
	@echo "make setup | demo | check | test | test-slow | test-all | container | runner | bench | bench-training | bench-registration | bench-cohort | clean"

setup: $(STAMP)

# torch goes first, in a call of its own: its exact name gives the build for this machine's index, while a resolver
# that is free to choose would take the newest one, which is several GB of CUDA. Modules are compiled when they are first
# imported: most never are, and to compile them all takes half of the installation's time.
$(STAMP): $(REQUIREMENTS) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3.11 python3.11-venv, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments: apt-get install python3.11-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --no-compile $(REQUIREMENTS:%=-r %)
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/python -m test.demo

test: setup
	$(PYTEST) -n $(TEST_WORKERS) -m "not slow and not gpu and not runner"

test-slow: setup
	$(PYTEST) -n $(TEST_WORKERS) -m "slow and not gpu"

# Both, without waiting for the last of the one before the first of the other.
test-all: setup
	$(PYTEST) -n $(TEST_WORKERS) -m "not gpu and not runner"

# The platform's runner needs a Python 3.12 beside the project's; without one its tests are skipped, with the reason.
runner: setup
	$(PYTEST) -m runner test/runner

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: setup
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.evaluation

bench-training: setup
	$(BIN)/python -m benchmarks.training

bench-registration: setup
	$(BIN)/python -m benchmarks.registration

bench-cohort: setup
	$(BIN)/python -m benchmarks.cohort

# With a docker engine the image stands on its official base; without one, on a small Debian base made here.
container: setup
	@if docker info >/dev/null 2>&1; then ./build.sh; \
	else base=$$(PYTHON=$(BIN)/python test/container/base_image.sh) && BASE_IMAGE=$$base ./build.sh; fi
	PYTHON=$(BIN)/python ./test.sh

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target does the set-up it needs; the first one on a fresh machine makes .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

# One thread for each of the test workers: torch would otherwise start one per core in every worker.
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-training bench-registration container clean

help:
	@echo "make setup | demo | test | check | bench | bench-training | bench-registration | container | clean"

setup: $(STAMP)

# torch goes first, in a call of its own: its exact name gives the build for this machine's index, while a resolver
# that is free to choose would take the newest one, which is several GB of CUDA.
$(STAMP): requirements.txt requirements-train.txt requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3.11 python3.11-venv, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments: apt-get install python3.11-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-train.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/python -m test.demo

test: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) -m "not container and not gpu"

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

# With a docker engine the image stands on its official base; without one, on a small Debian base made here.
container: setup
	@if docker info >/dev/null 2>&1; then ./build.sh; \
	else base=$$(test/container/base_image.sh) && BASE_IMAGE=$$base ./build.sh; fi
	./test.sh

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything runs in .venv/, with the exact versions of constraints.txt; only Python is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
TESTS ?= tests
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test soak lowest check format docs clean

demo: $(STAMP)  ## quickstart: train and score a small model on three short tasks
	$(BIN)/cl-bench run configs/quickstart.yaml

test: check  ## everything CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

soak: check  ## the same with whole matrices of combinations, and hundreds of kills
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m ''

lowest:  ## the tests, or TESTS=..., with the oldest versions that pyproject.toml permits
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install -q --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal $(TESTS)

check: $(STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## docs/config.md, from the models of the config
	$(BIN)/python -m cl_bench.report.config_reference > docs/config.md

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis

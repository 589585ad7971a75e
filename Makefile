# Two commands matter: `make demo` and `make test`. Both work in a fresh clone with nothing but Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo test format lint types unit wheel bench golden lock clean

demo: $(VENV)/.installed
	$(BIN)/glasshouse demo $(DEMO_ARGS)

test: format lint types unit wheel

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

# The built wheel, installed where no source lies beside it, must bring every file and start.
wheel: $(VENV)/.dev
	$(BIN)/python tests/wheel_check.py

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Rewrites the golden schema file after a deliberate migration; read the diff before committing it.
golden: $(VENV)/.dev
	$(BIN)/python tests/schema/golden.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# PIP_QUIET keeps the log short; the constraints file holds every pin.
$(VENV)/.installed: constraints.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing pinned versions into $(VENV); this takes some minutes"
	$(PIP) install --quiet -c constraints.txt torch torchvision
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Writes the pins that are installed now. A local build tag such as +cpu exists on no registry, so it is cut off.
lock: $(VENV)/.dev
	$(PIP) freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

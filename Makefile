# Every target works on a fresh machine with make and Python >= 3.11: it first creates .venv with pinned versions.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all test-gpu docs lint format clean

demo: $(READY)
	$(BIN)/videomem demo --out runs/demo

# Two parallel processes, each with one thread, because more threads would compete for the cores.
test: lint
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m "not slow" tests

test-all: lint
	$(BIN)/pytest -q tests

# On a machine with a GPU: compares every CUDA path with the CPU and measures its speed, in under 6 minutes.
test-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py

# The documentation site in build/site/; runs the notebooks, and fails on warnings, such as broken links.
docs: $(READY)
	WANDB_MODE=disabled $(BIN)/sphinx-build -q -W --keep-going -c docs . build/site

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { printf '%s\n' 'videomem needs Python >= 3.11; set it with make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

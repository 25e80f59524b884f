# Each target makes its own environment with plain pip when there is none (.venv, Python >= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SIZE ?= full

.PHONY: demo test lint bench docs clean

demo: $(VENV)/.installed
	$(BIN)/scenelift demo --size $(SIZE) --out demo

# Two processes with one thread each: small matrix products suffer from busy neighbours.
test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report=term:skip-covered -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/mask_voting.py
	$(BIN)/python benchmarks/sparse_conv.py
	$(BIN)/python benchmarks/mask_generation.py
	$(BIN)/python benchmarks/dense_clip.py

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# torch and torchvision first and together, so that pip picks a matching pair.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps nuscenes-devkit
	touch $@

clean:
	rm -rf $(VENV) demo site

# make demo: a first run, with its report. make test: the tests. Each makes the environment it needs.

PYTHON ?= python3
VENV ?= .venv
VENV_DOCS ?= .venv-docs
RUNS ?= runs
# Which of PyTorch's own indexes its build comes from (cpu, cu128, ...); empty: the package index.
TORCH ?=
BIN := $(VENV)/bin
METADATA := setup.cfg pyproject.toml
TORCH_FIRST = $(if $(TORCH),$(BIN)/python -m pip install --quiet torch torchvision \
  --index-url https://download.pytorch.org/whl/$(TORCH))

check_python = $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
  { echo "$(PYTHON) is not Python 3.11 to 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint docs clean

help:
	@echo "make demo      train and attack every defense on scikit-learn's digits; write a report"
	@echo "make test      run the tests on two cores"
	@echo "make coverage  run the tests and show which lines and branches of benchmark/ they miss"
	@echo "make lint      check style, types and the directions of imports"
	@echo "make docs      build the documentation's pages into site/"
	@echo "make clean     remove the environment, caches and build files (not $(RUNS)/)"
	@echo "make TORCH=cpu ...  take PyTorch's CPU build, for a machine without a GPU"
	@echo "make PYTHON=python3.12 ...  pick the interpreter (3.11 to 3.13)"

demo: $(VENV)/.installed
	$(BIN)/python -m benchmark run --dataset digits --preset smoke --defenses all --out $(RUNS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

coverage: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages are made from the docstrings as they are written: no torch there, and no other package of ours.
docs: $(VENV_DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/python -m mkdocs build --strict
	@echo "open site/index.html, or serve it: $(VENV_DOCS)/bin/python -m mkdocs serve"

$(VENV_DOCS)/.installed: docs/requirements.txt
	@$(check_python)
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	@touch $@

# Installed once, and again when the metadata change.
$(VENV)/.installed: $(METADATA) | $(BIN)/python
	$(TORCH_FIRST)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(METADATA) | $(BIN)/python
	$(TORCH_FIRST)
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(check_python)
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) $(VENV_DOCS) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache .coverage .coverage.*
	find benchmark defenses baselines reports tests examples -name __pycache__ -prune -exec rm -rf {} +

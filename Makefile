# Two commands: `make train` and `make test`. Each makes the virtual environment first if need be.
#   make train ARGS="training.steps=100"      overrides, as for `hnet train`
#   make install PIP_ARGS="--index-url ..."   another package index, or another build of torch

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/runs/quickstart.yaml
ARGS ?=
PIP_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
SOURCES := constraints.txt pyproject.toml setup.py
# Two test processes, one thread each: faster than one process with two threads on tensors this small.
WORKERS ?= 2

.PHONY: help install install-test install-dev train test test-hosts lint cuda clean

help:
	@echo "make train     install if need be, then train the quickstart model on the text that ships with hnet"
	@echo "make test      install if need be, then run the tests"
	@echo "make test-hosts  tests on several hosts made of namespaces; root only, installs sshd, pdsh and Slurm if missing"
	@echo "make install   only make $(VENV)"
	@echo "make lint      ruff, mypy, import-linter and hadolint"
	@echo "make cuda      compile the optional CUDA C++ kernels; needs nvcc, no GPU"
	@echo "make clean     remove $(VENV) and caches; runs/ stays"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-dev: $(VENV)/.installed-dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hnet needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch alone and first: nothing that is installed after it can choose another one.
$(VENV)/.installed: $(VENV)/.python $(SOURCES)
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) -e ".[dev]"
	@touch $@

train: install
	$(BIN)/hnet train $(CONFIG) $(ARGS)

test: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-hosts: install-test
	tests/launch/hosts/install.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/launch/hosts $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cpu

cuda: install
	$(BIN)/python -m hnet_kernels.cuda build

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

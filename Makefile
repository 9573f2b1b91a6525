# Each target does its own set-up, in .venv inside this checkout; it needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# pyright's own cache, kept inside the checkout
export PYRIGHT_PYTHON_CACHE_DIR := $(CURDIR)/.venv/pyright

.PHONY: setup demo test check format train clean

setup: $(INSTALLED)

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,report]'
	@touch $@

demo: setup
	$(BIN)/paceline demo

test: setup
	$(BIN)/pytest

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Trains the embedded model from nothing: about an hour on two cores, resumable.
train: setup
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 \
	$(BIN)/python training/train_digits.py --out src/paceline/models/digits --work build/digits

clean:
	rm -rf .venv build demo-out

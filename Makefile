# `make repro` and `make test` set up what is missing and run; they are all a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: repro test lint params bench

repro: .venv/ready
	$(BIN)/dvc repro

test: lint
	$(BIN)/pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

params: .venv/ready
	$(BIN)/r2r params

bench: .venv/ready
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

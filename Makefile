# `make repro` and `make test` set up what is missing and run: they are all that a fresh machine needs.
# `make check` is what a pull request has to pass.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test check lint params bench

repro: .venv/ready
	$(BIN)/dvc repro

test: lint
	$(BIN)/pytest

check: test
	.ci/lock
	$(BIN)/r2r verify

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

params: .venv/ready
	$(BIN)/r2r params

bench: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	for name in world download read filter arc2face transfer synthesize train evaluate; do $(BIN)/python -m bench.$$name || exit 1; done

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# alone first: a Python that is too old is named, where the constraints would only be in conflict
	$(BIN)/pip install -q --no-deps -e .
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	# insightface asks for opencv-python, whose windows need libGL; the headless build has the same functions
	$(BIN)/pip uninstall -q -y opencv-python
	$(BIN)/pip install -q -c constraints.txt --force-reinstall --no-deps opencv-python-headless
	touch $@

# Every target does its own set-up: an environment in .venv, made once and renewed when its requirements change.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The tested versions for this Python: jax 0.10 on 3.11, jax 0.12 on 3.13.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("constraints-newest.txt" if sys.version_info >= (3, 13) else "constraints.txt")')

.PHONY: run test test-slow lint docs clean

run: $(READY)            ## prepare the embedded digits, train on them, evaluate
	$(BIN)/python main.py

test: $(READY)           ## style, types and every fast test: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)      ## the tests marked slow, up to an hour; those that need real images skip without them
	JAX_DISABLE_MOST_OPTIMIZATIONS=false $(BIN)/python -m pytest -m slow

lint: $(READY)           ## format in place, then check style and types
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/pyright

docs: $(READY)           ## the documentation as a site in site/, which needs no network to read
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:                   ## remove the environment, every run and the site
	rm -rf .venv runs site

$(READY): pyproject.toml setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxcnn needs Python 3.11 or later; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $(READY)

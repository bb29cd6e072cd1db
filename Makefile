# The environment lives in .venv and is made once; every target creates what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow style quality clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

quickstart: .venv/.installed
	$(BIN)/vfmseg quickstart

test: .venv/.installed
	$(BIN)/python -m pytest -q -m 'not slow'

test-slow: .venv/.installed
	$(BIN)/python -m pytest -q -s -m slow

style: .venv/.installed
	$(BIN)/ruff check --fix src scripts tests
	$(BIN)/ruff format src scripts tests

quality: .venv/.installed
	$(BIN)/ruff check src scripts tests
	$(BIN)/ruff format --check src scripts tests

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist src/*.egg-info

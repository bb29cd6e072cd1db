# The environment lives in .venv and is made once; every target creates what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow style quality map clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# IMAGE="my_street.jpg more_streets" has your own photographs segmented; photographs to score on are taken where they are.
CAMVID := $(wildcard ../shared/data/camvid)
quickstart: .venv/.installed
	$(BIN)/vfmseg quickstart $(IMAGE) $(if $(CAMVID),--camvid $(CAMVID))

test: .venv/.installed
	$(BIN)/python -m pytest -q -m 'not slow' -n logical --dist worksteal

test-slow: .venv/.installed
	$(BIN)/python -m pytest -q -s -m slow

style: .venv/.installed
	$(BIN)/ruff check --fix src benchmarks scripts tests
	$(BIN)/ruff format src benchmarks scripts tests

quality: .venv/.installed
	$(BIN)/ruff check src benchmarks scripts tests
	$(BIN)/ruff format --check src benchmarks scripts tests

map: .venv/.installed
	$(BIN)/python -m tests.support.import_graph

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist src/*.egg-info

# Two commands do everything on a machine with Python 3.11 and make:  make demo  |  make test
# Where there is no 3.11, a later one will do; another by make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13; do command -v $$one && exit; done; echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export RAY_USAGE_STATS_ENABLED=0 PYANNOTE_METRICS_ENABLED=0

.PHONY: help setup demo test check docs bench gpu soak clean
help:
	@echo "make demo    set up, run the whole pipeline on a small crawl, print where the report is"
	@echo "make test    set up, run all tests (16 minutes on 2 cores)"
	@echo "make check   ruff and mypy"
	@echo "make docs    documentation and the modules' docstrings as pages, into build/docs"
	@echo "make bench   benchmarks, with their numbers (tens of minutes)"
	@echo "make gpu     does the card of this machine work, and how fast: 6 minutes"
	@echo "make soak    the long tests: kills, new examples for every property"

setup: $(READY)
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	@mkdir -p build; \
	$(BIN)/python -m pytest -m 'clusters and not soak' >build/clusters.log 2>&1 & clusters=$$!; \
	trap "kill $$clusters" INT TERM; \
	$(BIN)/python -m pytest -m 'not clusters and not soak'; others=$$?; \
	echo "waiting for the tests with clusters (build/clusters.log)"; wait $$clusters; result=$$?; \
	cat build/clusters.log; exit $$((others | result))

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m docs.build

bench: setup
	$(BIN)/python benchmarks/run_all.py

gpu: setup
	$(BIN)/python -m benchmarks.gpu

soak: setup
	HYPOTHESIS_PROFILE=exploring $(BIN)/python -m pytest -m 'hypothesis and not soak'
	$(BIN)/python -m pytest -m soak --timeout 7200 -s

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache

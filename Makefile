# Everything needs only Python 3.11–3.13 and make: each target sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export DO_NOT_TRACK := 1

.PHONY: help setup demo test lint check-docs bench boxes soak stress clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	touch $@

setup: $(READY)  ## make .venv with the package and all its extras

demo: $(READY)  ## everything on a synthetic data set: video to boxes, crops, a report, a short training, a probe
	$(BIN)/mocrop demo --out demo

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

test: lint  ## lint, types and the tests that protect a change
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 30

check-docs: $(READY)  ## every command in the documents, and the notebook
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak" tests/docs/test_docs.py

bench: $(READY)  ## the benchmarks, at least five repetitions of each: 45 minutes
	$(BIN)/python -m tests.benchmarks

boxes: $(READY)  ## how much of annotated actors each method's boxes keep: docs/reference/boxes.md
	$(BIN)/python -m tests.benchmarks.box_coverage --stores build/boxes
	$(BIN)/python -m tests.docs.reference_tables

soak: $(READY)  ## the long tests, with results in tests/support/soak_results.json
	$(BIN)/python -m pytest -m soak

stress: $(READY)  ## make test five times in fresh clones, twice on busy cores
	$(BIN)/python -m tests.support.stress

clean:  ## remove the files of make demo and of the tools
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build

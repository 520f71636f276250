# make demo         train the demo's captioner (CPU, a few minutes) and show what it learnt
# make test         all tests
# make test-fast    the tests that start no engine and no ranks, in a few minutes
# make demo-models  make the demo's shipped models again
# make bench        benchmarks of this machine, into benchmarks/
# make lint         ruff: rules and format
# make types        mypy over the package
# make docs         the documentation as a site, into site/ (its search needs a server: python -m http.server -d site)
# make setup        only the environment; every other target does this first
#
# PYTHON=python3.12   the interpreter that .venv is made with (3.11 or later)
# SET=cpu|cuda        the pinned requirements; by default cuda where nvidia-smi works
# WORKERS=3           pytest's processes: one more than cores, since tests wait for starts, ends and time-outs
# ARGS="..."          further arguments of the command

PYTHON ?=
SET ?=
WORKERS ?= 3
ARGS ?=
RUN = .venv/bin/python

.PHONY: help setup demo test test-fast demo-models bench lint types docs

help:
	@sed -n 's/^# //p' Makefile

setup:
	@PYTHON="$(PYTHON)" SET="$(SET)" bash tools/setup.sh

demo: setup
	@$(RUN) tools/demo.py $(ARGS)

test: setup
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: setup
	$(RUN) -m pytest -n $(WORKERS) -m "not heavy" $(ARGS)

demo-models: setup
	$(RUN) tools/make_demo_models.py $(ARGS)

bench: setup
	@$(RUN) -m pip install --quiet --no-deps --disable-pip-version-check -r requirements/bench.txt
	$(RUN) benchmarks/run.py $(ARGS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: setup
	$(RUN) -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

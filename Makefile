# `make demo` and `make test` work in a fresh clone with nothing but Python 3.10 to 3.13 and make.
PYTHON ?= python3
SONG   ?=
VENV   := .venv
BIN    := $(VENV)/bin
INSTALLED := setup.cfg setup.py pyproject.toml separator/dsp/stereo.c
# Set to e.g. --no-index --find-links DIR to install from a folder.
PIP_OPTIONS ?=

.PHONY: help setup demo test lint types bench clean

help:                   ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 16

setup: $(VENV)/.tested  ## create .venv with sepctl and what its tests need

demo: $(VENV)/.installed ## split a song with the bundled model, offline; SONG=path for your own
	$(BIN)/python scripts/demo.py $(if $(SONG),"$(SONG)")

test: $(VENV)/.tested   ## run every test
	@scripts/system.sh
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n auto --dist worksteal $(TESTS)

lint: $(VENV)/.tested   ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.tested  ## mypy --strict
	$(BIN)/mypy --strict separator

bench: $(VENV)/.tested  ## speed and peak memory beside openunmix, stages, start-up; ten minutes or more
	$(BIN)/python scripts/bench.py speed --minutes 1,4,20,60 --out docs
	$(BIN)/python scripts/bench.py memory --out docs
	$(BIN)/python scripts/bench.py stages --out docs
	$(BIN)/python scripts/bench.py stages --out docs -m mini
	$(BIN)/python scripts/bench.py scaling --out docs
	$(BIN)/python scripts/bench.py jobs --out docs
	$(BIN)/python scripts/bench.py startup --out docs

clean:                  ## remove what the other targets made, the environment included
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
	rm -f separator/dsp/_stereo.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: nothing is installed twice unless INSTALLED changes. A failed install leaves no stamp and is tried again.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(INSTALLED) | $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --editable .
	@touch $@

$(VENV)/.tested: $(INSTALLED) | $(VENV)/.created
	@scripts/system.sh
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --editable '.[test,report]'
	@touch $@ $(VENV)/.installed

# Every target sets up what it needs in .venv; a second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test test-slow acceptance mutants check bench bench-full docs clean help

help:
	@echo "make demo       train, rectify and evaluate a digit generator; ends with report.html"
	@echo "make test       the fast tests"
	@echo "make test-slow  training to a quality bar, faults, several processes"
	@echo "make acceptance what docs/proofs.md names: the closed forms, tolerances and bugs that the core is held to"
	@echo "make mutants    whether the fast tests notice that the mathematics is wrong"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make bench      a quick version of every benchmark, in at most 20 minutes; ends with the page"
	@echo "make bench-full the demos and all benchmarks: about four hours on two cores; a second call continues"
	@echo "make docs       the gallery of docs/"

demo: $(VENV)/.images
	$(BIN)/rectiflow demo images

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or fault or distributed or sim"

acceptance: $(VENV)/.dev
	$(BIN)/python -m pytest tests/core -m acceptance -n 2 --dist worksteal

mutants: $(VENV)/.dev
	$(BIN)/python tests/mutation

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/rectiflow bench peers quick=true
	OMP_NUM_THREADS=1 $(BIN)/rectiflow bench domains quick=true
	OMP_NUM_THREADS=1 $(BIN)/rectiflow bench scaling quick=true
	$(BIN)/rectiflow bench few-step name=few-step-quick updates=30 pairs=512 count=360 'teacher=["training.steps=100"]'
	$(BIN)/rectiflow bench report

bench-full: $(VENV)/.bench
	@echo "about four hours on two cores; stop it at any time, and the same command goes on"
	for domain in images proteins robotics audio shapes; do $(BIN)/rectiflow demo $$domain || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/rectiflow bench peers
	$(BIN)/rectiflow bench domains
	OMP_NUM_THREADS=1 $(BIN)/rectiflow bench scaling
	$(BIN)/rectiflow bench few-step
	$(BIN)/rectiflow bench report

docs: $(VENV)/.images
	$(BIN)/python docs/gallery.py

# A stamp is newer than what it was installed from; dev includes images, so either order installs each package once.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "rectiflow needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.images: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 3 GB of downloads the first time"
	$(PIP) -e ".[images]"
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 3 GB of downloads the first time"
	$(PIP) -e ".[all,dev]"
	touch $@ $(VENV)/.images

$(VENV)/.bench: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 3 GB of downloads the first time"
	$(PIP) -e ".[all,bench]"
	touch $@ $(VENV)/.images

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# make quickstart   install, build the example data, train, encode, search, evaluate, compare
# make test         install, check and test
# make coverage     the tests, with the lines that they reach; takes half as long again
# make test-slurm   start a SLURM cluster on this machine (root, Debian 12), run the tests marked slurm, stop it
# make bench        measure speed as ratios
# PYTHON=python3 make … uses your own environment; it needs the dependencies, but not this package.

ifdef PYTHON
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PYTHON := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED_FOR_QUICKSTART := .venv/installed-for-quickstart
endif

.PHONY: quickstart test coverage test-slurm lint bench clean

quickstart: $(INSTALLED_FOR_QUICKSTART)
	PYTHON=$(PYTHON) bash examples/quickstart/run.sh

test: lint
	$(PYTHON) -m pytest --numprocesses 2

coverage: $(INSTALLED)
	$(PYTHON) -m coverage erase
	$(PYTHON) -m pytest --numprocesses 2 --cov --cov-report=term --cov-fail-under=90

SLURM_BED ?= ../shared/slurm

test-slurm: $(INSTALLED)
	@if [ -x $(SLURM_BED)/start ]; then \
		$(SLURM_BED)/start && . "$${SLURM_LAB:-$${TMPDIR:-/tmp}/slurm-lab}/env" && \
		{ $(PYTHON) -m pytest -m slurm tests/slurm; code=$$?; $(SLURM_BED)/stop; exit $$code; } \
	else echo "skipped: $(SLURM_BED)/start does not exist, so there is no SLURM to test on"; fi

lint: $(INSTALLED)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint(['--no-logo'])"

bench: $(INSTALLED)
	for benchmark in train encode search; do OMP_NUM_THREADS=2 $(PYTHON) benchmarks/$$benchmark.py; done

.venv/installed: EXTRA = dev
.venv/installed-for-quickstart: EXTRA = quickstart

.venv/installed .venv/installed-for-quickstart: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	touch $@

clean:
	rm -rf .venv data runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*

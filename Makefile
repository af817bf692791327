# Targets for people; the work is in `posttrain`. `make sft recipe=tinystories` runs the chain up to sft.
.DEFAULT_GOAL := help
.PHONY: help install run fetch base data distill generate sft pairs dpo export plan eval report chat serve push check test test-all bench clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
recipe ?= tinystories
step ?=
format ?=
judge ?=
repo ?=
args ?=

help: ## this list
	@grep -hE '^[a-z][a-z -]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-41s %s\n", $$1, $$2}'
	@echo "  recipes: $(basename $(notdir $(wildcard recipes/*.yaml)))"

# torch comes first and exactly: a range would bring gigabytes of CUDA packages where the CPU build is wanted.
$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	@echo "Setting up $(VENV), once: torch first, then what requirements.lock names. A few minutes, most of it download."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install torch==2.13.0
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

install: $(BIN)/.installed ## create .venv with the locked dependencies

run: install ## the whole chain of recipe=NAME
	@$(BIN)/posttrain run $(recipe)

base data distill generate sft pairs dpo export: install ## the chain up to this step, as in: make sft recipe=tinystories
	@$(BIN)/posttrain run $(recipe) --until $@

fetch: install ## get ahead what the recipe takes from the hub
	@$(BIN)/posttrain fetch $(recipe)

plan: install ## what would run
	@$(BIN)/posttrain plan $(recipe)

eval: install ## judge the latest run again, with judge=openai:MODEL say
	@$(BIN)/posttrain eval $(recipe) $(if $(judge),--judge $(judge))

report: install ## write report.html and report.md of the latest run
	@$(BIN)/posttrain report $(recipe)

chat: install ## talk to the model of the last step, or of step=NAME
	@$(BIN)/posttrain chat $(recipe) $(if $(step),--step $(step)) $(if $(format),--format $(format))

serve: install ## serve that model as an OpenAI-compatible endpoint
	@$(BIN)/posttrain serve $(recipe) $(if $(step),--step $(step)) $(if $(format),--format $(format))

push: install ## push step=NAME to repo=USER/NAME on the hub; args=--dry-run lists what would go
	@$(BIN)/posttrain push $(recipe) $(if $(step),--step $(step)) $(if $(repo),--repo $(repo)) $(args)

check: install ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: install ## the default tests: offline, on the CPU, in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-all: install ## whole chains and kill tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

bench: install ## our training step beside stock TRL, in one run
	$(BIN)/python bench/sft.py

clean: ## delete runs and caches, keep .venv
	rm -rf runs build .pytest_cache .mypy_cache .ruff_cache

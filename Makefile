# `make demo` and `make test` set themselves up; nothing is installed twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for processes that they start, so one more than there are cores is busy.
PROCESSES ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# mkdocs-material would print six lines about its successor at every build.
export NO_MKDOCS_2_WARNING := 1
ifneq ($(wildcard ../shared/data/README.md),)
export PREFINE_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test check setup torture format docs clean help

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: setup  ## From prompts to a better model and a report, on the embedded playground
	@$(BIN)/prefine demo $(ARGS)
	@echo "The command itself: source $(BIN)/activate, then prefine --help. To start: prefine init."

test: setup  ## The test suite
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup  ## Lint, types, and every link of the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mkdocs build --strict

torture: setup  ## Long runs by hand: kills at random moments and steps
	@$(BIN)/python -m pytest -s -m torture $(ARGS)

format: setup  ## Let ruff format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

docs: setup  ## Write the generated pages anew from the code, and build the site in build/site
	@$(BIN)/python docs/make_losses.py
	@$(BIN)/python docs/make_metrics.py
	@$(BIN)/python docs/make_settings.py
	@$(BIN)/python docs/make_commands.py
	@$(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

setup: $(STAMP)  ## Prepare .venv
	@:

# One process at a time: two `make` in one checkout would install over each other.
$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

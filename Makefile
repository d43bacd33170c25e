# Two commands: `make chat` and `make test`. Each makes .venv ready first, which is quick when it is.
# ARGS go to the program behind the target:  make chat ARGS="-m model.gguf"   make test ARGS="-k verify -x"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help chat test lint setup setup-dev clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo 'Arguments: make chat ARGS="-m model.gguf"; another Python: make PYTHON=python3.12 setup'

chat: setup  ## chat with the bundled demo model
	@$(BIN)/edgespec chat $(ARGS)

test: setup-dev  ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

lint: setup-dev  ## run the linters
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

setup:  ## make .venv ready to chat
	@$(PYTHON) tools/setup.py

setup-dev:
	@$(PYTHON) tools/setup.py --dev

clean:  ## remove .venv and what tools left behind (built runtimes stay in the user's cache)
	@rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .cache/build.log .cache/setup.lock
	@find edgespec tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

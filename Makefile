# Two commands: `make chat` and `make test`. Each makes .venv ready first, which is quick when it is.
# ARGS go to the program behind the target:  make chat ARGS="-m model.gguf"   make test ARGS="-k verify -x"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help chat test lossless bench llama-server lint setup setup-dev clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo 'Arguments: make chat ARGS="-m model.gguf"; another Python: make PYTHON=python3.12 setup'

chat: setup  ## chat with the bundled demo model
	@$(BIN)/edgespec chat $(ARGS)

test: setup-dev  ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

lossless: setup-dev  ## the whole lossless sweep (about 10 minutes), recorded in benchmarks/results/lossless.json
	@$(BIN)/python benchmarks/lossless.py

bench: setup-dev  ## the benchmarks behind README's figures (about half an hour on an idle machine)
	@mkdir -p .cache/models
	@for type in f16 q4_0; do \
	  test -e .cache/models/demo-1b-$$type.gguf || \
	  $(BIN)/python benchmarks/expand.py edgespec/demo/demo.gguf --shape 1b --type $$type \
	    -o .cache/models/demo-1b-$$type.gguf || exit 1; \
	  $(BIN)/python benchmarks/speculation.py .cache/models/demo-1b-$$type.gguf --name 1b-$$type || exit 1; \
	done
	@$(BIN)/python benchmarks/engine_time.py
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/exact_cost.py .cache/models/demo-1b-f16.gguf
	@$(BIN)/python benchmarks/readme_table.py

llama-server: setup-dev  ## build llama.cpp's own server to measure against (5 minutes), and print where it is
	@$(PYTHON) tools/llama_server.py

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

# Two commands: `make chat` and `make test`. Each makes .venv ready first, which is quick when it is.
# ARGS go to the program behind the target:  make chat ARGS="-m model.gguf"   make test ARGS="-k verify -x"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help chat test lossless bench control memory peers trim streaming models-1b models-memory models-trim pack-gpu bench-gpu llama-server lint setup setup-dev clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo 'Arguments: make chat ARGS="-m model.gguf"; another Python: make PYTHON=python3.12 setup'

chat: setup  ## chat with the bundled demo model
	@$(BIN)/edgespec chat $(ARGS)

test: setup-dev  ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

lossless: setup-dev  ## the whole lossless sweep (about 10 minutes), recorded in benchmarks/results/lossless.json
	@$(BIN)/python benchmarks/lossless.py

models-1b: setup-dev
	@mkdir -p .cache/models
	@for type in f16 q4_0; do \
	  test -e .cache/models/demo-1b-$$type.gguf || \
	  $(BIN)/python benchmarks/expand.py edgespec/demo/demo.gguf --shape 1b --type $$type \
	    -o .cache/models/demo-1b-$$type.gguf || exit 1; \
	done

peers: models-1b  ## edgespec beside llama-server and llama_cpp.Llama: README's tables (about 50 minutes, idle machine)
	-@$(MAKE) --no-print-directory llama-server
	@status=0; for type in f16 q4_0; do \
	  $(BIN)/python benchmarks/peers.py .cache/models/demo-1b-$$type.gguf --name 1b-$$type || status=1; \
	  $(BIN)/python benchmarks/peers_ttft.py .cache/models/demo-1b-$$type.gguf --name 1b-$$type || status=1; \
	done; $(BIN)/python benchmarks/readme_table.py && exit $$status

# NAME SHAPE TYPE SOURCE VOCAB of every expanded model that the benchmarks of memory read.
define MEMORY_MODELS
demo-0.5b-q4_0      0.5b q4_0 demo
demo-0.5b-q8_0      0.5b q8_0 demo
demo-1b-f16         1b   f16  demo
demo-1b-q4_0        1b   q4_0 demo
demo-1b-f16-152k    1b   f16  demo       152064 8192
demo-draft-152k     same q8_0 demo-draft 152064 8192
demo-3b-q4_0        3b   q4_0 demo
demo-moe-q4_0       moe  q4_0 demo
endef
export MEMORY_MODELS

models-memory: setup-dev  ## make the models that `make memory` reads, in .cache/models (8 GiB, about 5 minutes)
	@mkdir -p .cache/models
	@echo "$$MEMORY_MODELS" | while read -r name shape type source vocab context; do \
	  test -e .cache/models/$$name.gguf || \
	  $(BIN)/python benchmarks/expand.py edgespec/demo/$$source.gguf --shape $$shape --type $$type \
	    $${vocab:+--vocab $$vocab --context $$context} -o .cache/models/$$name.gguf || exit 1; \
	done

MEMORY := predict levers budgets hog kills window

memory: models-memory  ## memory's benchmarks: predict, levers, budgets, hog, kills, window (about an hour, idle machine)
	@status=0; for name in $(MEMORY); do \
	  echo "benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || status=1; \
	done; exit $$status

models-trim: models-memory
	@test -e .cache/models/demo-draft-0.5b-152k.gguf || \
	  $(BIN)/python benchmarks/expand.py edgespec/demo/demo-draft.gguf --shape 0.5b --type q8_0 \
	    --vocab 152064 --context 8192 -o .cache/models/demo-draft-0.5b-152k.gguf

trim: models-trim  ## what a trimmed head costs and gives, recorded in benchmarks/results/trim.json (idle machine)
	@$(BIN)/python benchmarks/trim.py
	@$(BIN)/python benchmarks/trim_table.py

streaming: models-1b  ## a model larger than memory: plain, big trees, llama-server's chains (two hours, idle machine, root)
	-@$(MAKE) --no-print-directory llama-server
	@$(BIN)/python benchmarks/streaming.py .cache/models/demo-1b-q4_0.gguf
	@$(BIN)/python benchmarks/streaming_table.py

control: models-memory  ## does speculation pay, and never lose: control, mixed, ablation, drafters (two hours, idle machine)
	@$(BIN)/python benchmarks/useless.py -o .cache/models/demo-draft-random.gguf
	@for name in 1b-f16 1b-q4_0 moe-q4_0; do \
	  $(BIN)/python benchmarks/control.py .cache/models/demo-$$name.gguf --name $$name --minutes 0 --each 4 \
	    --each-alone 7 --useless .cache/models/demo-draft-random.gguf || exit 1; \
	done
	@$(BIN)/python benchmarks/mixed.py
	@$(BIN)/python benchmarks/ablation.py benchmarks/results/control-1b-f16.json benchmarks/results/control-1b-q4_0.json \
	  benchmarks/results/control-moe-q4_0.json
	@$(BIN)/python benchmarks/parallel.py edgespec/demo/demo.gguf edgespec/demo/demo-draft.gguf edgespec/demo/demo-draft-parallel.gguf
	@$(BIN)/python benchmarks/verifiers.py
	@$(BIN)/python benchmarks/lookahead.py

pack-gpu: setup-dev  ## pack .gpu/ for `make bench-gpu` on a machine without network
	@tools/pack_gpu.sh

bench-gpu:  ## the tables for 1B and 8B shapes on a GPU (benchmarks/gpu.sh says what it needs)
	@benchmarks/gpu.sh $(ARGS)

bench: models-1b  ## the other benchmarks (about half an hour on an idle machine)
	@for type in f16 q4_0; do \
	  $(BIN)/python benchmarks/speculation.py .cache/models/demo-1b-$$type.gguf --name 1b-$$type || exit 1; \
	done
	@$(BIN)/python benchmarks/bench_record.py demo -m demo --prompts benchmarks/data/prompts_dev.jsonl --max-tokens 64
	@$(BIN)/python benchmarks/pairing.py .cache/models/demo-1b-q4_0.gguf
	@$(BIN)/python benchmarks/engine_time.py
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/kills.py
	@$(BIN)/python benchmarks/exact_cost.py .cache/models/demo-1b-f16.gguf

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

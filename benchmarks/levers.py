"""What memory planning saves on a model with a large vocabulary, lever by lever, and what speed it keeps.

    python benchmarks/levers.py            # 1B shape, f16, 152k tokens, capacity 8,192: about 6 minutes, idle machine

Generation memory is everything but weights (SpecMemo, arXiv 2506.01986). The default is what the runtime allocates
with its own defaults for a tree of 64 nodes: 512 tokens a pass, logits for all of them, a drafter's context alike. Each
lever is pulled on top of those before it; bytes are the runtime's own figures, asked without allocating, and our
tables. The plan at its floor is then raced against the two best of the settings that no budget restrains, at the same
capacity; the better of them counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from prompts import dev_prompts
from record import ROOT, paired_median, write

from edgespec.assemble import open_assistant, open_workbench, planner_for
from edgespec.assistant import Assistant
from edgespec.backends.llama_cpp import figures, runtime
from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.load import LoadOptions, model_params
from edgespec.backends.llama_cpp.parameters import context_params
from edgespec.bench.methods import parse_methods
from edgespec.memory.configuration import Configuration, as_opened
from edgespec.settings import Settings
from edgespec.types import ContextSpec, Sampling, Step

MODELS = ROOT / ".cache" / "models"
CAPACITY, TREE = 8192, 64
ALL_OUTPUTS = 0  # the runtime's default: every token of a batch may have logits
METHODS = "plain,chain@4,chain@5,chain@6,chain@8,tree@4,tree@6,tree@8,tree@12"
TABLES = ("vocabulary", "python", "runtime", "scratch")


def dry(path: Path, spec: ContextSpec, n_outputs: int | None, n_batch: int | None = None) -> dict[str, int]:
    """The runtime's figures for a context; n_outputs, n_batch: other than ours."""
    runtime.start()
    given = model_params(LoadOptions(n_gpu_layers=0), allocate=False)
    model = lib.llama_model_load_from_file(str(path).encode(), given.struct)
    params = context_params(spec, dimensions(spec, trees=True))
    if n_outputs is not None:
        params.n_outputs_max = n_outputs
    if n_batch is not None:
        params.n_batch, params.n_ubatch = n_batch, min(n_batch, 512)
    runtime.log.clear()
    context = lib.llama_init_from_model(model, params)
    found = figures.read(runtime.log.lines())
    lib.llama_free(context)
    lib.llama_model_free(model)
    return {"kv": found.kv_bytes, "compute": sum(found.compute.values())}


def outputs(n_vocab: int, rows: int) -> int:
    """Host logits: the buffer grows to the widest pass there was."""
    return 4 * n_vocab * rows


def levers(target: Path, draft: Path, lean: Configuration, n_vocab: int) -> list[dict[str, Any]]:
    """Cumulative steps from the runtime's defaults to the lean plan."""
    assert lean.draft is not None
    wide = ContextSpec(CAPACITY, max_nodes=TREE, max_leaves=TREE, n_ubatch=512 - TREE - 2, n_threads=2)
    tree = replace(wide, max_nodes=lean.target.max_nodes, max_leaves=lean.target.max_leaves)
    narrow = replace(tree, n_ubatch=lean.target.n_ubatch)
    waves = replace(lean.draft.context, kv_type="f16", n_ctx=CAPACITY)
    fit = replace(waves, kv_type=lean.draft.context.kv_type)
    last = as_opened(lean, CAPACITY)
    assert last.draft is not None
    steps = [
        ("runtime's defaults, tree of 64", wide, ALL_OUTPUTS, 2048, wide, ALL_OUTPUTS, 2048, TREE, TREE),
        ("logits for the rows of a tree alone", wide, None, None, wide, None, None, TREE, TREE),
        ("a tree as wide as pays", tree, None, None, tree, None, None, None, None),
        (f"prompts read {narrow.n_ubatch} tokens at a time", narrow, None, None, narrow, None, None, None, None),
        ("a drafter's context for its waves", narrow, None, None, waves, None, None, None, None),
        (f"the drafter's cache in {fit.kv_type}", narrow, None, None, fit, None, None, None, None),
        ("the plan (a drafter's window, if any)", last.target, None, None, last.draft.context, None, None, None, None),
    ]
    found = []
    for name, ours, n_out, n_batch, its, its_out, its_batch, rows, its_rows in steps:
        parts = {
            "target": dry(target, ours, n_out, n_batch) | {"output": outputs(n_vocab, rows or _rows(ours))},
            "drafter": dry(draft, its, its_out, its_batch) | {"output": outputs(n_vocab, its_rows or _rows(its))},
        }
        total = sum(sum(part.values()) for part in parts.values())
        found.append({"lever": name, "allocated_bytes": total, **parts})
    return found


def _rows(spec: ContextSpec) -> int:
    dims = dimensions(spec, trees=True)
    return max(dims.n_outputs - 1, dims.n_seq_max)


def rate(assistant: Assistant, ids: list[int], sampling: Sampling, n_tokens: int) -> float:
    """Milliseconds a token of one cold answer, from its first token on, as rates are counted (docs/bench.md)."""
    engine = assistant.engine
    engine.forget()
    steps = [s for s in engine.generate(ids, sampling, n_tokens, end_ids=frozenset()) if isinstance(s, Step)]
    later = steps[1:]
    ms = sum(s.target_ms + s.draft_ms + s.overhead_ms for s in later)
    return ms / max(sum(len(s.tokens) for s in later), 1)


def race(asked: argparse.Namespace, base: Settings, lean: Settings) -> dict[str, Any]:
    """Screen the settings that no budget restrains, then race the best of them with the lean plan, in turn."""
    found: dict[str, Any] = {}
    methods = parse_methods(METHODS, base)
    with open_assistant(lean) as small, open_workbench(methods) as bench:  # what a budget holds is weighed first
        assert small.engine.method != "plain", small.warnings
        prompts = dev_prompts(bench.target, asked.screen + asked.prompts, longest=120)
        for temperature in (0.0, 0.8):
            sampling = Sampling(temperature=temperature, seed=1)

            def screened(name: str, ids: list[int], sampling: Sampling = sampling) -> float:
                bench.use(name)
                return rate(bench.assistant, ids, sampling, asked.tokens)

            table = {name: [screened(name, ids) for ids in prompts[: asked.screen]] for name in bench.choices}
            two = sorted(table, key=lambda name: float(np.mean(table[name])))[:2]
            rounds = [
                _round(screened, two, small, ids, sampling, asked.tokens, i)
                for i, ids in enumerate(prompts[asked.screen :])
            ]
            best = min(two, key=lambda name: float(np.mean([r[name] for r in rounds])))
            kept = paired_median([r[best] / r["plan"] for r in rounds])
            found[str(temperature)] = {
                "screened_ms_per_token": table,
                "best_unbudgeted": best,
                "ms_per_token": rounds,
                "speed_kept": kept,
                "plan": small.engine.method,
            }
            print(temperature, best, f"{kept['ratio']:.3f} ({kept['low']:.3f} to {kept['high']:.3f})", flush=True)
    return found


def _round(
    screened: Callable[[str, list[int]], float],
    names: list[str],
    small: Assistant,
    ids: list[int],
    sampling: Sampling,
    n: int,
    i: int,
) -> dict[str, float]:
    """The two best settings and the plan on one prompt, in an order that rotates."""
    runs: dict[str, Callable[[], float]] = {name: lambda name=name: screened(name, ids) for name in names}
    runs["plan"] = lambda: rate(small, ids, sampling, n)
    order = list(runs)
    return {name: runs[name]() for name in [*order[i % 3 :], *order[: i % 3]]}


def probed(settings: Settings) -> dict[str, Any]:
    """`edgespec probe --load --json` of the lean plan: its bytes as they are."""
    command = [sys.executable, "-m", "edgespec.cli", "probe", "--load", "--json", "-m", str(settings.model)]
    command += ["-d", str(settings.draft), "--context", str(settings.context), "--budget", str(settings.budget)]
    command += ["--threads", "2", "--method", settings.method]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=MODELS / "demo-1b-f16-152k.gguf")
    parser.add_argument("--draft", type=Path, default=MODELS / "demo-draft-152k.gguf")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--screen", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-race", action="store_true")
    asked = parser.parse_args()
    base = Settings(model=str(asked.target), draft=str(asked.draft), context=CAPACITY, threads=2)
    with open_assistant(base):  # measures what passes cost here, where that is not known yet: the floor depends on it
        pass
    planner, _, _ = planner_for(base, lambda *_: None)
    free = planner.plan()
    lean_settings = replace(base, budget=free.floor_bytes)
    lean = planner.plan(lean_settings)
    # Before the figures are asked for: what they leave in this process's heap would count against the budget.
    raced = None if asked.no_race else race(asked, base, lean_settings)
    n_vocab = planner.target.shape.n_vocab
    steps = levers(asked.target, asked.draft, lean.configuration, n_vocab)
    tables = sum(lean.footprint.of(role + name) for role in ("", "draft ") for name in TABLES)
    default, ours = (step["allocated_bytes"] + tables for step in (steps[0], steps[-1]))
    for step in steps:
        print(f"{step['lever']:50} {step['allocated_bytes'] / 2**20:8.1f} MiB", step["target"], step["drafter"])
    mib = [n_bytes / 2**20 for n_bytes in (tables, ours, default)]
    print(f"with tables of {mib[0]:.1f} MiB: {mib[1]:.1f} of {mib[2]:.1f} MiB = {ours / default:.3f}")
    result: dict[str, Any] = {
        "capacity": CAPACITY,
        "levers": steps,
        "tables_bytes": tables,
        "generation_bytes": {"default": default, "plan": ours, "share": ours / default},
        "allocated_share": steps[-1]["allocated_bytes"] / steps[0]["allocated_bytes"],
        "plan": [line.__dict__ for line in lean.lines],
    }
    if raced:
        result["race"] = raced
        result["probe"] = probed(lean_settings)
        print(write("levers", result))


if __name__ == "__main__":
    main()

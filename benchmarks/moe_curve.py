"""What passes of a mixture of experts cost by what they hold: a text, random ids, one id repeated.

    python benchmarks/moe_curve.py                    # demo-moe-q4_0, 2 cores, idle machine: about 3 minutes

The three are interleaved pass by pass behind the same 128 tokens of text and compared by paired ratios, width by width;
"predicted" is what memory/times.py makes of rows that choose their experts independently, over a lone row, and of rows
that all choose the same. Not covered: real models' routers (the demo's text routes by chance, expand.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import record

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.memory.configuration import Placement
from edgespec.memory.footprint import CPU
from edgespec.memory.source import Source, read_source
from edgespec.memory.times import UNMEASURED, Mixture, ModelTimes, Where, pass_ms
from edgespec.passage import passage_ids
from edgespec.speculation.tree import chain
from edgespec.types import ContextSpec, Ids, Span

MODEL = record.ROOT / ".cache" / "models" / "demo-moe-q4_0.gguf"
WIDTHS = (1, 2, 4, 6, 8, 16, 32)
DEPTH = 128


def kinds(text: Ids, n_vocab: int) -> dict[str, Callable[[int], Ids]]:
    """So many ids of each kind, others every time; stretches of the text begin at random behind what is cached."""
    rng = np.random.default_rng(0)

    def stretch(n: int) -> Ids:
        start = int(rng.integers(DEPTH, len(text) - n))
        return text[start : start + n]

    return {
        "text": stretch,
        "random": lambda n: rng.integers(0, n_vocab, n).astype(np.int32),
        "repeated": lambda n: np.full(n, rng.choice(text), np.int32),
    }


def timed(context: Context, tokens: Ids) -> float:
    """Milliseconds of one pass, dropped again."""
    span = Span(0, chain(tokens.tolist()), np.arange(len(tokens), dtype=np.int32))
    start = time.perf_counter()
    context.evaluate([span])
    ms = 1e3 * (time.perf_counter() - start)
    context.keep(0, [])
    return ms


def interleaved(context: Context, draw: dict[str, Callable[[int], Ids]], n_rounds: int) -> dict[str, np.ndarray]:
    """float64 [n_rounds, len(WIDTHS)] of each kind; kinds take turns at being first."""
    names = list(draw)
    ms = {name: np.zeros((n_rounds, len(WIDTHS))) for name in names}
    for i in range(n_rounds):
        for column, width in enumerate(WIDTHS):
            turn = (i + column) % len(names)
            for name in names[turn:] + names[:turn]:
                ms[name][i, column] = timed(context, draw[name](width))
    return ms


def predicted(source: Source) -> dict[str, list[float]]:
    """Passes over a lone row: experts chosen independently, all the same, and all weights read (a dense model's)."""
    shape = source.shape
    mixture = Mixture(shape.expert_bytes, shape.n_expert, shape.n_expert_used)
    times = ModelTimes(source.quantisation, len(shape.layers), shape.embedding.n_bytes, shape.tied, mixture)
    where = Where(Placement(), ((CPU, source.path.stat().st_size),))
    one_expert_set = mixture.n_bytes * mixture.n_used // mixture.n_experts
    same = Where(Placement(), ((CPU, source.path.stat().st_size - mixture.n_bytes + one_expert_set),))
    found = {
        "independent": pass_ms(times, where, WIDTHS, UNMEASURED),
        "same": pass_ms(replace(times, mixture=None), same, WIDTHS, UNMEASURED),
    }
    return {name: (ms / ms[0]).tolist() for name, ms in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    source = read_source(args.model.stem, args.model)
    model = LlamaModel(args.model, LoadOptions())
    context = model.open(ContextSpec(n_ctx=2048, max_nodes=64, max_leaves=1, n_threads=args.threads))
    text = passage_ids(model)
    context.prefill(0, text[:DEPTH])
    draw = kinds(text, model.n_vocab)
    interleaved(context, draw, 1)  # warms up
    ms = interleaved(context, draw, args.rounds)
    lines = []
    expected = predicted(source)
    for column, width in enumerate(WIDTHS):
        of = {name: ms[name][:, column] for name in draw}
        line = {
            "rows": width,
            **{f"{name}_ms": {"least": of[name].min(), "median": float(np.median(of[name]))} for name in draw},
            **{f"{name}_over_text": record.paired_median(of[name] / of["text"]) for name in ("random", "repeated")},
            **{f"{name}_over_lone": record.paired_median(of[name] / ms[name][:, 0]) for name in draw},
            **{f"predicted_{name}_over_lone": expected[name][column] for name in expected},
        }
        lines.append(line)
        print(json.dumps(line), flush=True)
    record.write("moe_curve", {"model": args.model.name, "rounds": args.rounds, "results": lines})


if __name__ == "__main__":
    main()

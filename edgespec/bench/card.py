"""The card above a result: bandwidth, its limit, the cost curve, and the bound that acceptance sets to speculation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgespec.backends.llama_cpp import runtime
from edgespec.bench.ceilings import (
    Recorded,
    bandwidth,
    best_first_tokens_per_pass,
    bound,
    bytes_per_token,
    limit_tokens_per_s,
)
from edgespec.bench.measure import Text
from edgespec.speculation.cost import Curve
from edgespec.speculation.drafters.base import Drafter
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import Choice, ContextSpec, Sampling
from edgespec.workbench import Workbench

CURVE_BUDGET_S = 30.0
BOUND_ROWS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
WIDTH = 8
# Answers and tokens that best-first trees are grown along: enough for two digits, some seconds of the drafter's time.
N_TEXTS, N_TOKENS = 12, 48
N_DRAFTS = 8


def ceilings(bench: Workbench, cancelled: Callable[[], bool]) -> tuple[dict[str, Any], Curve]:
    """What holds before any answer: bandwidth, bytes a token, the limit in tokens a second, ms by rows.

    Raises what Workbench.curve raises.
    """
    n_bytes = bytes_per_token(bench.assistant.entry.path)
    # A graphics card's own memory is another one, and nothing here measures it.
    memory = None if runtime.supports_gpu() else bandwidth(bench.settings.threads or 1)
    curve = bench.measure_curve(CURVE_BUDGET_S, cancelled)
    told = {
        "bandwidth_bytes_per_s": memory.bytes_per_s if memory else None,
        "bandwidth_how": memory.how if memory else None,
        "bytes_per_token": n_bytes,
        "limit_tokens_per_s": limit_tokens_per_s(memory, n_bytes) if memory else None,
        "curve": {"depth": curve.depth, "rows": list(curve.rows), "ms": list(curve.pass_ms)},
        "landings": list(curve.landings()),
    }
    return told, curve


def speculation_bound(
    bench: Workbench, curve: Curve, texts: Sequence[Text], sampling: Sampling, cancelled: Callable[[], bool]
) -> dict[str, Any] | None:
    """The most that this drafter can reach on these answers, or None where nothing drafts or no answer was long enough.

    Tokens a pass of exact best-first trees, over a pass and drafting measured alone, at the best number of rows.
    """
    some = [t for t in texts if len(t.answer) > 1][:: max(1, len(texts) // N_TEXTS)][:N_TEXTS]
    if bench.draft is None or not some:
        return None
    recorded = [
        # The first token comes with the prompt: passes that draft begin behind it.
        Recorded(
            (*t.prompt.tolist(), int(t.answer[0])), tuple(t.answer[1:N_TOKENS].tolist()), replace(sampling, seed=t.seed)
        )
        for t in some
    ]
    longest = max(len(r.prompt) + len(r.answer) for r in recorded)
    rows = max(BOUND_ROWS)
    spec = ContextSpec(longest + 8 * rows, max_nodes=rows, max_leaves=2 * rows, n_threads=bench.settings.threads)
    context = bench.draft.open(spec)
    try:
        tokens_per_pass = best_first_tokens_per_pass(context, recorded, BOUND_ROWS, width=WIDTH, cancelled=cancelled)
        draft_ms = _draft_ms(bench.drafter_on(context), recorded)
    finally:
        context.close()
    depth = int(np.median([len(r.prompt) for r in recorded]))
    best = bound(curve, tokens_per_pass, draft_ms, depth)
    return {
        "rows": best.rows,
        "speedup": best.speedup,
        "tokens_per_second": best.tokens_per_second,
        "depth": depth,
        "tokens_per_pass_by_rows": {str(n): v for n, v in tokens_per_pass.items()},
        "draft_ms_by_rows": {str(n): v for n, v in draft_ms.items()},
    }


def _draft_ms(drafter: Drafter, recorded: Sequence[Recorded]) -> dict[int, float]:
    """Least milliseconds of drafting a tree of so many rows with nothing else running, caught up with the text."""
    found: dict[int, list[float]] = {rows: [] for rows in BOUND_ROWS}
    for text in recorded[:N_DRAFTS]:
        history = np.array([*text.prompt, *text.answer], np.int32)
        process, noise = Process(text.sampling), Noise(text.sampling.seed)
        for rows, times in found.items():
            choice = Choice("model", rows, rows - 1, WIDTH)
            drafter.draft(history[:-1], choice, process, noise)  # catches up; not counted
            start = time.perf_counter()
            drafter.draft(history, choice, process, noise)
            times.append(1e3 * (time.perf_counter() - start))
    return {rows: min(times) for rows, times in found.items()}

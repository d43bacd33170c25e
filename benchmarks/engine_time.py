"""Engine time in absolute terms: what a round costs beside the runtime, on the fake backend with 152k tokens.

The fake's passes are look-ups and are not counted. A round is everything but drafting: the loop, verification,
commit. A wave is what the drafter adds each time it reads a set of nodes. The rows are freshly copied before they are
read, as a runtime leaves them. Not covered: the runtime's own time.
"""

from __future__ import annotations

import json
import time

import numpy as np
import record

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.engine.clock import TimedContext
from edgespec.engine.loop import Engine
from edgespec.engine.setup import Setup
from edgespec.speculation.controllers import FixedController
from edgespec.speculation.drafters.model import ModelDrafter
from edgespec.speculation.drafters.reader import Reader
from edgespec.types import Choice, ContextSpec, Ids, Rows, Sampling, Span, Step

N_VOCAB = 152_064
SHAPES = {"chain of 5 rows": Choice("model", 5, 4, 1), "tree of 8 rows": Choice("model", 8, 7, 8)}


class WarmContext(FakeContext):
    """Copies its rows just before they are read, so that they lie in the caches as a runtime leaves them."""

    def evaluate(self, spans: list[Span], cancelled: object = None) -> Rows:
        rows = super().evaluate(spans)
        return Rows(np.ascontiguousarray(rows.logits).copy())


class TimedDrafter:
    """The model drafter, with its own time (the runtime's taken out) noted."""

    def __init__(self, context: TimedContext) -> None:
        self._inner, self._context, self.ms = ModelDrafter(Reader(context)), context, 0.0

    def draft(self, history: Ids, choice: Choice, process, noise):
        start, inside = time.perf_counter(), self._context.ms
        tree = self._inner.draft(history, choice, process, noise)
        self.ms += 1e3 * (time.perf_counter() - start) - (self._context.ms - inside)
        return tree

    def commit(self, history, verdict) -> None:
        self._inner.commit(history, verdict)

    def close(self) -> None:
        self._inner.close()


def measure(choice: Choice, temperature: float, n_tokens: int) -> dict[str, float]:
    spec = ContextSpec(n_ctx=8192, max_nodes=64, max_leaves=64)
    model = measure.model
    target = TimedContext(WarmContext(model, spec))
    draft_inner = WarmContext(measure.draft, spec)
    draft = TimedContext(draft_inner)
    drafter = TimedDrafter(draft)
    engine = Engine(Setup(target, {"model": drafter}, FixedController(choice), "model", [draft]))
    rounds, waves, n = [], [], 0
    for event in engine.generate([1, 2, 3], Sampling(temperature=temperature, seed=1), n_tokens, end_ids=()):
        if isinstance(event, Step):
            rounds.append(event.overhead_ms - drafter.ms)
            waves.append(drafter.ms / max(draft_inner.n_passes - n, 1))
            drafter.ms, n = 0.0, draft_inner.n_passes
    return {
        "round_ms": float(np.median(rounds)),
        "round_ms_p95": float(np.percentile(rounds, 95)),
        "wave_ms": float(np.median(waves)),
        "wave_ms_p95": float(np.percentile(waves, 95)),
        "waves_per_round": n / len(rounds),
        "tokens_per_round": n_tokens / len(rounds),
        "n_rounds": len(rounds),
    }


def main() -> None:
    # A peaked table: rows with a clear favourite, as language models give them.
    measure.model = FakeModel(n_vocab=N_VOCAB, scale=4.0, end_ids=frozenset())
    measure.draft = measure.model.perturbed(1.0)
    results = []
    for temperature in (0.0, 0.8):
        for name, choice in SHAPES.items():
            best = min((measure(choice, temperature, 300) for _ in range(3)), key=lambda r: r["round_ms"])
            results.append({"temperature": temperature, "shape": name, **best})
            print(json.dumps(results[-1]))
    record.write(
        "engine_time", {"n_vocab": N_VOCAB, "bars": {"round_ms": [0.4, 1.2], "wave_ms": 0.3}, "results": results}
    )


if __name__ == "__main__":
    main()

"""What each part of the controller and of the sources is worth: every one off, one at a time.

usage: ablation.py CONTROL.json ... [--each 4] [--tokens 48]; results/ablation.json. CONTROL.json: what control.py said,
for its cost curve. Texts and acceptance are the demo models' own; a pass of the target costs what the curve says, one
of the drafter DRAFT_MS, so that figures do not depend on what else the machine does. Python's own time is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import contest
import record
from contest import Contestant, Corner, Text

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.engine.clock import TimedContext
from edgespec.speculation import goodput, live, reliability
from edgespec.speculation.cost import Curve, from_dict
from edgespec.speculation.drafters import evidence, sources
from edgespec.speculation.drafters.recycle import Recycled
from edgespec.speculation.drafters.suffix import Suffix
from edgespec.speculation.sizing import whole
from edgespec.types import Rows, Span

DEMO = Path(__file__).resolve().parents[1] / "edgespec" / "demo"
# A pass of the 4.4 M drafter beside a 1B target (docs/design.md section 8).
DRAFT_MS = 0.6


class CostedContext(TimedContext):
    """Counts what a pass would cost instead of what it took."""

    def __init__(self, inner: Context, curve: Curve | None) -> None:
        super().__init__(inner)
        self._curve = curve

    def evaluate(self, spans: Sequence[Span], cancelled: Any = None) -> Rows:
        n_rows = sum(len(span.nodes) - span.n_silent for span in spans)
        self.ms += self._curve.ms(n_rows) if self._curve else DRAFT_MS
        return self._inner.evaluate(spans, cancelled)

    def keep(self, slot: int, path: Sequence[int]) -> None:
        self._inner.keep(slot, path)

    def prefill(self, *args: Any) -> None:
        self._inner.prefill(*args)


class CostedCorner(Corner):
    def context(self) -> TimedContext:
        return CostedContext(super().context()._inner, self.curve)


@contextmanager
def off(part: str) -> Iterator[None]:
    """The same with one part switched off."""
    nothing = lambda *_: sources.NOTHING  # noqa: E731
    patches = {
        "all on": (),
        "suffix": (mock.patch.object(Suffix, "guess", nothing),),
        "recycling": (mock.patch.object(Recycled, "guess", nothing),),
        "longer keys of recycling": (mock.patch("edgespec.speculation.drafters.recycle.ORDERS", (1,)),),
        "evidence beside the drafter": (mock.patch.object(evidence, "RATE", 0.0), _no_weights()),
        "sizing to what passes cost": (mock.patch.object(goodput.GoodputController, "size", _eight),),
        "padding to landings": (mock.patch.object(live.LiveCost, "padded", lambda _, rows: rows),),
        "corrected chances": (mock.patch.object(reliability.Reliability, "observe", return_value=None),),
        "reading ahead for the drafter": (mock.patch("edgespec.speculation.drafters.mix.N_AHEAD", 0),),
        "stopping inside a draft": (
            mock.patch.object(live.LiveCost, "row_ms", return_value=[]),
            mock.patch.object(goodput.GoodputController, "_wave_ms", return_value=0.0),
        ),
        "trying other arms": (mock.patch.object(goodput.GoodputController, "_worth_trying", return_value=None),),
        "not drafting as an arm": (mock.patch.object(goodput.GoodputController, "_change_arm", _never_plain),),
    }
    with _all(patches[part]):
        yield


PARTS = (
    "all on",
    "suffix",
    "recycling",
    "longer keys of recycling",
    "evidence beside the drafter",
    "sizing to what passes cost",
    "padding to landings",
    "corrected chances",
    "reading ahead for the drafter",
    "stopping inside a draft",
    "trying other arms",
    "not drafting as an arm",
)


@contextmanager
def _all(patches: Sequence[Any]) -> Iterator[None]:
    if not patches:
        yield
        return
    with patches[0], _all(patches[1:]):
        yield


def _no_weights() -> Any:
    made = evidence.Evidence.__init__

    def without(self: evidence.Evidence, trusts: Sequence[Sequence[float]]) -> None:
        made(self, [[0.0] * len(source) for source in trusts])

    return mock.patch.object(evidence.Evidence, "__init__", without)


def _eight(self: goodput.GoodputController, choice: Any, tree: Any, history: Any) -> Any:
    """The eight best nodes whatever they are worth."""
    chances = self._reliability[self._trial or self._in_use].chances(tree, self._kind)
    return goodput.cut(tree, chances, min(8, len(tree))) if len(tree) > 1 else whole(tree)


_change = goodput.GoodputController._change_arm


def _never_plain(self: goodput.GoodputController) -> None:
    plain = self._arms["none"]
    plain.tokens, plain.steps, plain.prior = [0.0] * len(plain.tokens), plain.steps, 0.1
    _change(self)


def milliseconds(contestant: Contestant, texts: Sequence[Text]) -> list[float]:
    """What each text would cost."""
    return [sum(s.target_ms + s.draft_ms for s in contest.say(contestant, text)) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("control", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--recorded", type=int, default=16, help="texts of each kind that are replayed")
    args = parser.parse_args()
    target, draft = (LlamaModel(DEMO / f"{name}.gguf", LoadOptions()) for name in ("demo", "demo-draft"))
    result: dict[str, Any] = {"draft_ms": DRAFT_MS}
    for path in args.control:
        curve = from_dict(json.loads(path.read_text())["curve"])
        prior = max(2.8 * curve.ms(1) / curve.ms(6), 0.9)
        corner = CostedCorner(target, curve, 2, draft, prior, lambda context: CostedContext(context, None))
        texts = {
            "replay": contest.recorded(target, "answers_recorded.jsonl", 128, args.recorded),
            "copies": contest.recorded(target, "copies.jsonl", 128, args.recorded),
            "temperature 0": contest.generated(corner, 0.0, args.tokens, args.each),
            "temperature 0.8": contest.generated(corner, 0.8, args.tokens, args.each),
        }
        result[path.stem] = own = {}
        for kind, some in texts.items():
            arms = ["lookup"] if kind in ("replay", "copies") else ["model", "mix", "lookup"]
            base: list[float] = []
            own[kind] = {}
            for part in PARTS:
                with off(part):
                    contestant = corner.auto(arms)
                    took = milliseconds(contestant, some)
                    contestant.engine.close()
                base = base or took
                speed = contest.ratio([curve.ms(1) * (len(t.answer) - 1) for t in some], took)
                own[kind][part] = {"ratio_to_plain": speed["ratio"], "over_all_on": contest.ratio(base, took)}
            print(path.stem, kind, {p: round(v["ratio_to_plain"], 3) for p, v in own[kind].items()}, flush=True)
    record.write("ablation", result)


if __name__ == "__main__":
    main()

"""Why methods are measured in turn: the same comparison, with a busy process beside its second half, both ways.

In turn, prompt by prompt, plain and chain both meet the disturbance; one after the other, only the second does. The
truth is what an undisturbed run in turn says, before and after. The hog is this script's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import record
from contenders import open_ours
from prompts import DATA

from edgespec.bench.figures import figures
from edgespec.bench.measure import Sample, measure
from edgespec.bench.questions import read_questions, spread
from edgespec.types import Sampling
from edgespec.workbench import Workbench

METHOD = "chain@6"
HOG = (sys.executable, "-c", "while True: pass")


def samples(
    bench: Workbench, names: Sequence[str], n_prompts: int, n_tokens: int, on_sample: Callable[[], None]
) -> list[Sample]:
    questions = spread(read_questions(DATA / "prompts_dev.jsonl"), n_prompts)
    found = []
    for event in measure(bench, names, questions, Sampling(temperature=0), n_tokens, 1, lambda: False):
        if isinstance(event, Sample):
            found.append(event)
            on_sample()
    return found


class Hog:
    """A busy process from the n-th sample on."""

    def __init__(self, after: int | None) -> None:
        self._after, self._n = after, 0
        self._process: subprocess.Popen[bytes] | None = None

    def count(self) -> None:
        self._n += 1
        if self._n == self._after:
            self._process = subprocess.Popen(HOG)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def ratio(bench: Workbench, n_prompts: int, n_tokens: int, *, in_turn: bool, disturbed: bool) -> dict[str, Any]:
    """Plain's time a token over the chain's, paired by prompt, and as the ratio of the two rates."""
    hog = Hog(n_prompts if disturbed else None)
    orders = [("plain", METHOD)] if in_turn else [("plain",), (METHOD,)]
    found: list[Sample] = []
    try:
        for names in orders:
            found += samples(bench, names, n_prompts, n_tokens, hog.count)
    finally:
        hog.stop()
    plain, own = ([s for s in found if s.method == n] for n in ("plain", METHOD))
    told = figures(own, plain)
    rates = [figures(s, plain)["tokens_per_second"] for s in (own, plain)]
    return {
        "paired": [told["ratio_to_plain"], told["ratio_to_plain_low"], told["ratio_to_plain_high"]],
        "of_rates": rates[0] / rates[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20)
    args = parser.parse_args()
    found = {}
    with open_ours(args.model, f"plain,{METHOD}", 2) as (bench, _):
        for name, in_turn, disturbed in (
            ("quiet, in turn", True, False),
            ("disturbed, in turn", True, True),
            ("disturbed, one after the other", False, True),
            ("quiet, one after the other", False, False),
            ("quiet, in turn, again", True, False),
        ):
            found[name] = ratio(bench, args.prompts, args.tokens, in_turn=in_turn, disturbed=disturbed)
            print(name, json.dumps(found[name]), flush=True)
    record.write("pairing", {"prompts": args.prompts, "tokens": args.tokens, "ratio_to_plain": found})


if __name__ == "__main__":
    main()

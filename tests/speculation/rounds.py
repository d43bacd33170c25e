"""Made-up rounds for controllers: drafters that are right so often, passes that cost so much, no clock and no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgespec.speculation.controllers import Controller
from edgespec.speculation.cost import Curve
from edgespec.speculation.tree import single
from edgespec.speculation.verify import ranks
from edgespec.types import Choice, Step, TokenTree, Verdict

WORD, SYMBOL, DIGIT = 0, 1, 2  # ids, and their kinds
OVERHEAD_MS = 0.2


@dataclass(frozen=True)
class Drafts:
    """A drafter of chains.

    right     how likely a drafted token is the draw where its parent was, by kind of text
    promised  what it says about that
    node_ms   time to read one node: the pending token at least, and every drafted one but the last
    """

    right: tuple[float, float, float]
    promised: float
    node_ms: float = 0.0

    def tree(self, choice: Choice, pending: int) -> TokenTree:
        n = min(choice.rows - 1, choice.depth)
        prices = choice.row_prices or (0.0,)
        while n and self.promised**n < prices[min(n, len(prices) - 1)]:
            n -= 1
        at = np.arange(n + 1, dtype=np.int32)
        logprob = (np.log(max(self.promised, 1e-9)) * at).astype(np.float32)
        return TokenTree(
            np.concatenate([[pending], at[1:] + 10]).astype(np.int32), at - 1, at.astype(np.int16), logprob
        )


def always(right: float, promised: float | None = None, node_ms: float = 0.0) -> Drafts:
    return Drafts((right,) * 3, right if promised is None else promised, node_ms)


@dataclass
class Rounds:
    """Runs a controller; what is below is by round.

    curve  what passes take
    noise  standard deviation of the logarithm of a pass's time
    """

    controller: Controller
    drafters: Mapping[str, Drafts]
    curve: Curve
    kind: int = WORD
    noise: float = 0.0
    seed: int = 0
    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._n_past = 100

    @property
    def plain_ms(self) -> float:
        return self.curve.ms(1) + OVERHEAD_MS

    def steps(self, n: int, n_left: int = 1000) -> Rounds:
        for _ in range(n):
            self._round(n_left)
        return self

    def share(self, name: str, last: int) -> float:
        return self.names[-last:].count(name) / last

    def _round(self, n_left: int) -> None:
        history = np.full(self._n_past + 1, self.kind, np.int32)
        choice = self.controller.choose(n_left, history)
        if choice.plain:
            tree, draft_ms, drafted = single(self.kind), 0.0, None
        else:
            drafts = self.drafters[choice.drafter]
            drafted = drafts.tree(choice, self.kind)
            draft_ms = drafts.node_ms * max(len(drafted) - 1, 1)
            tree = self.controller.size(choice, drafted, history).tree
        verdict = self._walk(tree, self.drafters[choice.drafter].right[self.kind] if drafted is not None else 0.0)
        target_ms = self.curve.ms(len(tree)) * float(np.exp(self.noise * self._rng.standard_normal()))
        step = Step(
            verdict.tokens,
            choice,
            len(tree) - 1,
            verdict.n_accepted,
            target_ms,
            draft_ms,
            OVERHEAD_MS,
            ranks=ranks(tree, verdict),
            n_past=self._n_past,
        )
        self.controller.observe(step, tree, verdict)
        self._n_past += 1  # depth is not the subject: the curve is flat along it
        self.names.append(choice.drafter)
        self.rows.append(len(tree))
        self.n_tokens.append(len(verdict.tokens))
        self.ms.append(target_ms + draft_ms + OVERHEAD_MS)
        self.choices.append(choice)

    def _walk(self, tree: TokenTree, right: float) -> Verdict:
        path, tokens = [0], []
        while True:
            drafted = [n for n in np.flatnonzero(tree.parent == path[-1]) if tree.draft_logprob[n] > -np.inf]
            if not drafted or self._rng.random() >= right:
                return Verdict(tuple(path), (*tokens, 9), None)
            path.append(int(drafted[0]))
            tokens.append(int(tree.token[drafted[0]]))

"""The vocabulary of edgespec: frozen values that cross its borders.

Imports nothing of edgespec but its errors, so that every layer may use it. Token ids are int32 everywhere,
probabilities are natural logarithms, times are milliseconds and sizes are bytes, as the names say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgespec.errors import BadSetting

if TYPE_CHECKING:  # the faces speak this vocabulary too, and start faster without numpy
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "NDArray[np.int32]"
Floats: TypeAlias = "NDArray[np.float32]"
FinishReason = Literal["stop", "length", "cancelled", "error"]

KV_TYPES = ("f16", "q8_0", "q4_0")
MAX_NODES = 512


@dataclass(frozen=True)
class Dist:
    """What may come next, a row each, likeliest first.

    ids int32 [m, k]; logprob float32 [m, k], -inf where a cut took the id away
    """

    ids: Ids
    logprob: Floats


@dataclass(frozen=True)
class TokenTree:
    """Drafted continuations as parallel arrays; node 0 is the pending token (emitted, in no cache yet).

    Parents come before their children and depths never decrease (breadth first), as the runtimes ask.

    token          int32 [n], ids of the full vocabulary
    parent         int32 [n], parent[0] == -1
    depth          int16 [n], depth[0] == 0
    draft_logprob  float32 [n], the drafter's estimate of log P(node is reached), 0 for node 0
    draft_probs    n rows, from which each node's children were drawn without replacement, in their order; -inf
                   throughout for a node the drafter did not read. None: the children are guesses, not draws
    """

    token: Ids
    parent: Ids
    depth: NDArray[np.int16]
    draft_logprob: Floats
    draft_probs: Dist | None = None

    def __len__(self) -> int:
        return len(self.token)


@dataclass(frozen=True)
class Span:
    """Nodes of one slot's tree to evaluate in a pass.

    nodes     indices into tree, parents before children
    n_silent  the first so many of `nodes` get no row (tokens that only have to enter the cache)
    """

    slot: int
    tree: TokenTree
    nodes: Sequence[int] | Ids
    n_silent: int = 0


@dataclass(frozen=True)
class Rows:
    """What a pass returned, one row a node, in the order asked; views valid until the context's next call.

    logits  float32 [n, k]
    ids     int32 [k], ascending, the token id of each column; None: the column is the id
    """

    logits: Floats
    ids: Ids | None = None


@dataclass(frozen=True)
class Caps:
    """What a context can do.

    max_nodes     most rows of one pass; max_silent most nodes without a row that one pass may carry beside them
    max_rollback  None: any distance
    """

    max_nodes: int
    max_silent: int
    max_leaves: int
    trees: bool
    max_rollback: int | None
    state_copy: bool
    exact: bool


@dataclass(frozen=True)
class ContextSpec:
    """How to open a context.

    n_ctx       tokens of conversation it must hold (the rows of a pass come on top)
    max_nodes   most rows of one pass; max_leaves most leaves of one slot's tree
    exact       make a row independent of the width of its pass and of where its past lies (docs/design.md section 8)
    """

    n_ctx: int
    n_slots: int = 1
    max_nodes: int = 32
    max_leaves: int = 16
    kv_type: str = "f16"
    n_ubatch: int = 512
    n_threads: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.kv_type not in KV_TYPES:
            raise BadSetting(f"KV type {self.kv_type!r} is unknown; use one of {', '.join(KV_TYPES)}")
        for name in ("n_ctx", "n_slots", "max_nodes", "max_leaves", "n_ubatch"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name} is {getattr(self, name)} but must be at least 1")


def _check(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        bound = f"between {_shown(low)} and {_shown(high)}" if math.isfinite(high) else f"{_shown(low)} or more"
        raise BadSetting(f"{name} is {_shown(value)} but must be {bound}")


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the target's row; names, defaults and order are llama.cpp's.

    Order: logit bias, penalties over the last penalty_last_n tokens, top-k, top-p, min-p, temperature.
    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch those cuts off.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, math.inf)
        _check("top-k", self.top_k, 0, math.inf)
        _check("top-p", self.top_p, 0, 1)
        _check("min-p", self.min_p, 0, 1)
        _check("repeat penalty", self.repeat_penalty, 1e-3, math.inf)
        _check("presence penalty", self.presence_penalty, -math.inf, math.inf)
        _check("frequency penalty", self.frequency_penalty, -math.inf, math.inf)
        _check("penalty window", self.penalty_last_n, 0, math.inf)
        _check("seed", self.seed, 0, 2**64 - 1)
        for token, bias in self.logit_bias:
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise BadSetting(
                    f"logit bias of {bias:g} for token {token} must be a number below infinity for an id of 0 or more"
                )

    @property
    def greedy(self) -> bool:
        """Temperatures that overflow a float32 logit mean the same as 0."""
        return self.temperature < 1e-6


@dataclass(frozen=True)
class Choice:
    """What a controller asks of one round; drafter "none" is plain decoding.

    rows        rows of the target's pass, node 0 included
    depth       most drafted tokens on one path
    width       most children of a node; 1 makes a chain
    row_prices  expected tokens that the first, second, ... row of the pass must bring to pay; beyond, the last one's
                price holds; (): rows are free
    wave_price  expected tokens that one more pass of the drafter must bring
    """

    drafter: str
    rows: int
    depth: int
    width: int
    row_prices: tuple[float, ...] = ()
    wave_price: float = 0.0

    @property
    def plain(self) -> bool:
        return self.drafter == "none" or self.rows <= 1


PLAIN = Choice("none", rows=1, depth=0, width=0)


@dataclass(frozen=True)
class Verdict:
    """What verification found.

    path    nodes to commit, node 0 first: the pending token and every emitted token but the last
    tokens  emitted ids, len(path) of them; the last one (the bonus token) is pending next
    finish  why the answer ends here, or None
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]
    finish: FinishReason | None

    @property
    def n_accepted(self) -> int:
        return len(self.path) - 1


@dataclass(frozen=True)
class Step:
    """One round: the tokens it emitted and where its time went (milliseconds).

    ranks   for each node of the walk that had children, in order: which of them was the draw (0 is the first), or -1
    greedy  the answer was drawn at temperature 0
    n_past  tokens of the conversation behind the pass
    """

    tokens: tuple[int, ...]
    choice: Choice
    n_drafted: int
    n_accepted: int
    target_ms: float
    draft_ms: float
    overhead_ms: float
    finish: FinishReason | None = None
    ranks: tuple[int, ...] = ()
    greedy: bool = False
    n_past: int = 0


@dataclass(frozen=True)
class Notice:
    """A line for the user in the middle of an answer: what changed, and why.

    kind      "ladder" (the plan changed), "context" (room was made), "turns" (old ones were left out), "saving" (what
              was learnt could not be saved), "drafter" (its head was trimmed again) or "restart"
    n_tokens  tokens of the answer that were there already
    """

    kind: str
    text: str
    n_tokens: int = 0


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ids are the answer's tokens where this process generated it."""

    role: str
    content: str
    ids: tuple[int, ...] | None = field(default=None, compare=False)

    def rendered(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class PlanLine:
    """One decision of the plan, with its reason, as `--json` prints it."""

    line: str
    value: str
    reason: str


@dataclass(frozen=True)
class Prefill:
    """The prompt is in the cache: n_prompt tokens, n_cached of them were there already.

    ms  of reading the rest, the share of the first round's pass that it took included (docs/design.md section 2)
    """

    n_prompt: int
    n_cached: int
    ms: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it comes: text that is certain, and the ids emitted since the last piece."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """A finished answer and what it cost; finish "cancelled" or "error" (told by the faces) keeps what was said so far.

    text excludes the stop string and everything after it; tokens holds every emitted id.
    n_said: the first so many of them came from a process that died; the other figures are of the rest.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    method: str
    prompt_n: int
    cache_n: int
    prompt_ms: float
    predicted_ms: float
    draft_n: int
    draft_n_accepted: int
    n_rounds: int
    target_ms: float
    draft_ms: float
    overhead_ms: float
    n_said: int = 0

    @property
    def n_timed(self) -> int:
        """Tokens that the figures are of."""
        return len(self.tokens) - self.n_said

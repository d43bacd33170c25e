"""How large contexts are opened: what the conversation needs, a little more, and never beyond what was promised.

A configuration's target.n_ctx is a promise; memory for it is taken as the conversation grows (docs/ladder.md).
Not covered: opening (ladder.py), what it costs (memory/predict.py).
"""

from __future__ import annotations

from dataclasses import replace

from edgespec.memory.configuration import Configuration
from edgespec.types import ContextSpec

# Tokens of an answer that room is made for at a time; the runtime takes cells in units of PAD.
GRAIN, PAD = 512, 256
# What is opened before there is a conversation: a short turn fits without opening twice.
FIRST = PAD + GRAIN


def required(configuration: Configuration, n_history: int, n_left: int) -> int:
    """Tokens the target's context must hold for the next round.

    n_history: with the pending one; n_left: what the answer may still get.
    """
    spec = configuration.target
    return min(spec.n_ctx, n_history + min(n_left, spec.max_nodes))


def wanted(configuration: Configuration, n_history: int, n_left: int) -> int:
    """Tokens to open the target's context for, when it is opened anyway; at least what is required."""
    spec = configuration.target
    n = n_history + min(n_left, max(GRAIN, spec.max_nodes))
    return min(spec.n_ctx, -(-n // PAD) * PAD)


def holds(there: ContextSpec, asked: ContextSpec) -> bool:
    """Whether an opened context is as asked for, or only longer."""
    return there.n_ctx >= asked.n_ctx and replace(there, n_ctx=asked.n_ctx) == asked

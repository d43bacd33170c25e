"""What a context is opened with, worked out from what is asked of it; no runtime is touched.

One place for it, because the same numbers decide what a context can do (context.py) and what it weighs (memory).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgespec.errors import BadSetting
from edgespec.types import ContextSpec

MAX_SEQUENCES = 256
# With f16 KV a lone row, or 64 rows and more, runs another attention kernel than 2 to 32 rows (docs/exact.md).
EXACT_F16_ROWS = (2, 32)
# The runtime rounds the cache up (src/llama-context.cpp, GGML_PAD of n_ctx).
CELLS = 256


@dataclass(frozen=True)
class Dimensions:
    """Parameters of a llama_context, and what follows from them.

    n_cells      cells of the cache: the conversation and the rows of a pass, padded
    n_batch      tokens of the widest pass: rows and their twin under --exact, beside what it may read of a prompt
    n_outputs    most rows of one pass, never below n_seq_max: the runtime aborts there (docs/trees.md)
    max_nodes    rows of one slot's tree in a pass; max_leaves leaves of it
    n_spare      sequences lent to leaves; first_spare the first of them
    helper       a sequence to move rows through under --exact, else None
    pads         lone rows are padded to a pass of two
    """

    n_cells: int
    n_batch: int
    n_outputs: int
    n_seq_max: int
    max_nodes: int
    max_leaves: int
    n_spare: int
    first_spare: int
    helper: int | None
    pads: bool


def dimensions(spec: ContextSpec, trees: bool) -> Dimensions:
    """trees: the model can drop part of its state. Raises BadSetting for what no context can do."""
    pads = spec.exact and spec.kv_type == "f16"
    max_nodes = min(spec.max_nodes, EXACT_F16_ROWS[1]) if pads else spec.max_nodes
    max_leaves = spec.max_leaves if trees else 1  # a drafter's tree grows over several passes
    if spec.exact and spec.n_slots > 1:
        raise BadSetting(f"--exact holds for one conversation in a context, not {spec.n_slots}")
    first_spare = spec.n_slots + (1 if spec.exact else 0)
    n_spare = min(spec.n_slots * (max_leaves - 1), MAX_SEQUENCES - first_spare)
    if max_leaves - 1 > n_spare:
        raise BadSetting(f"a tree of {max_leaves} leaves needs more than the runtime's {MAX_SEQUENCES} sequences")
    n_seq_max = first_spare + n_spare
    n_rows = max(max_nodes * spec.n_slots + 1, n_seq_max)
    wanted = spec.n_ctx + spec.n_slots * (n_rows + 1)
    return Dimensions(
        n_cells=-(-wanted // CELLS) * CELLS,
        n_batch=n_rows + 1 + spec.n_ubatch,
        n_outputs=n_rows,
        n_seq_max=n_seq_max,
        max_nodes=max_nodes,
        max_leaves=max_leaves,
        n_spare=n_spare,
        first_spare=first_spare,
        helper=spec.n_slots if spec.exact else None,
        pads=pads,
    )

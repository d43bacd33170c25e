"""The fake context refuses what a runtime would."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.backends.fake import FakeContext, FakeModel
from edgespec.errors import InvalidBatch, NoKvSlot
from edgespec.speculation.tree import chain
from edgespec.types import ContextSpec, Span
from tests.helpers import tree_of

MODEL = FakeModel()
FORK = tree_of([4, 5, 6, 7], [-1, 0, 0, 1])


def context(**spec: int) -> FakeContext:
    return MODEL.open(ContextSpec(**{"n_ctx": 32, "max_nodes": 4, "max_leaves": 2, **spec}))


@pytest.mark.parametrize("nodes", [[1], [0, 1, 1], []])
def test_a_pass_out_of_order_is_refused(nodes: list[int]) -> None:
    """Fails when a caller's mistake passes here and dies in a real runtime: no parent, twice, nothing."""
    with pytest.raises(InvalidBatch):
        context().evaluate([Span(0, FORK, nodes)])


def test_too_many_rows_leaves_or_tokens_are_refused() -> None:
    """Fails when a limit of the spec is not one of the fake's."""
    with pytest.raises(InvalidBatch):
        context(max_nodes=3).evaluate([Span(0, FORK, [0, 1, 2, 3])])
    with pytest.raises(InvalidBatch):
        context(max_leaves=1).evaluate([Span(0, FORK, [0, 1, 2])])
    with pytest.raises(NoKvSlot):
        context().prefill(0, list(range(33)))


def test_rows_depend_on_the_text_alone() -> None:
    """Fails when width, order or waves show in a row."""
    whole, waves = context(), context()
    for c in (whole, waves):
        c.prefill(0, [1, 2, 3])
    rows = whole.evaluate([Span(0, FORK, [0, 1, 2, 3])]).logits
    one = waves.evaluate([Span(0, FORK, [0])]).logits[0]
    later = waves.evaluate([Span(0, FORK, [2, 1])]).logits
    assert np.array_equal(one, rows[0])
    assert np.array_equal(later[0], rows[2])
    assert np.array_equal(later[1], rows[1])


def test_a_path_past_what_was_evaluated_is_kept_as_far_as_it_was() -> None:
    """Fails when a drafter's last leaf, which it never read, is taken for cached."""
    c = context()
    c.evaluate([Span(0, FORK, [0, 1])])
    c.keep(0, [0, 1, 3])
    assert c.length(0) == 2


def test_state_moves_between_contexts() -> None:
    """Fails when a conversation is lost on the way."""
    a, b = context(), context()
    a.prefill(0, [1, 2, 3])
    b.import_state(0, a.export_state(0))
    step = [Span(0, chain([9]), [0])]
    assert np.array_equal(a.evaluate(step).logits, b.evaluate(step).logits)

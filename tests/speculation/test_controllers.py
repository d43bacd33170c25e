"""A fixed choice near the end of an answer: depth is what may still be said, rows are not."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.speculation.controllers import FixedController, fitting
from edgespec.types import Choice

CHAIN, TREE = Choice("model", rows=9, depth=8, width=1), Choice("model", rows=256, depth=32, width=16)


@pytest.mark.parametrize(("n_left", "rows", "depth"), [(1000, 9, 8), (9, 9, 8), (5, 5, 4), (1, 1, 0), (0, 1, 0)])
def test_a_chain_is_as_long_as_what_may_still_be_said(n_left: int, rows: int, depth: int) -> None:
    """Fails when rows are verified whose tokens would be cut off, or the last one that may be used is not drafted."""
    found = fitting(CHAIN, n_left)
    assert (found.rows, found.depth) == (rows, depth)


@pytest.mark.parametrize(("n_left", "rows", "depth"), [(1000, 256, 32), (33, 256, 32), (20, 256, 19), (1, 1, 0)])
def test_a_tree_loses_levels_and_keeps_its_rows(n_left: int, rows: int, depth: int) -> None:
    """Fails when an answer of 48 tokens has no tree of 256 rows: rows need no room of the conversation's."""
    found = fitting(TREE, n_left)
    assert (found.rows, found.depth) == (rows, depth)
    assert (found.drafter, found.width) == (TREE.drafter, TREE.width)
    assert found.plain == (n_left == 1)


def test_a_fixed_controller_chooses_what_fits() -> None:
    """Fails when the end of a context is left to the runtime to refuse."""
    assert FixedController(TREE).choose(20, np.zeros(1, np.int32)) == fitting(TREE, 20)

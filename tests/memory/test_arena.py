"""The graph allocator on tensor sizes: laws worked by hand in blocks of 64 bytes."""

from __future__ import annotations

from edgespec.memory.arena import Arena, Node, peak_bytes

A, B, C, D = (64 * n for n in (1, 2, 3, 4))


def test_a_freed_block_is_used_again() -> None:
    """Fails when what is read for the last time stays allocated: two outputs of a chain would stand side by side."""
    chain = [Node("x", B, ("in",)), Node("y", B, ("x",)), Node("z", B, ("y",))]
    assert peak_bytes([("in", A)], chain) == A + B + B


def test_an_operation_may_write_over_its_only_reader_s_input() -> None:
    """Fails when additions and norms take memory of their own."""
    chain = [Node("x", C, ("in",)), Node("y", C, ("x",), in_place=True)]
    assert peak_bytes([("in", A)], chain) == A + C


def test_an_input_that_is_read_again_is_not_written_over() -> None:
    """Fails when a residual is destroyed by the norm in front of it."""
    nodes = [Node("x", C, ("in",)), Node("norm", C, ("x",), in_place=True), Node("sum", C, ("norm", "x"))]
    assert peak_bytes([("in", A)], nodes) == A + C + C + C


def test_a_view_keeps_its_owner_and_takes_nothing() -> None:
    """Fails when a reshaped tensor is counted twice, or freed under its view."""
    nodes = [Node("x", C, ("in",)), Node("v", C, ("x",), view_of="x"), Node("y", B, ("v",)), Node("z", C, ("y",))]
    assert peak_bytes([("in", A)], nodes) == A + C + B


def test_the_smallest_hole_that_fits_is_taken() -> None:
    """Fails when the first hole is taken: it would be cut up, and a later tensor would have to go behind everything."""
    arena = Arena()
    places = [arena.take(n) for n in (D, A, B, A)]
    arena.give(places[0], D)
    arena.give(places[2], B)
    assert arena.take(B) == places[2]
    assert arena.take(D) == places[0]


def test_free_neighbours_become_one_block() -> None:
    """Fails when memory falls to pieces: a tensor of their joint size would go behind everything."""
    arena = Arena()
    places = [arena.take(n) for n in (A, B, C)]
    for place, n_bytes in zip(places[:2], (A, B), strict=True):
        arena.give(place, n_bytes)
    assert arena.take(C) == 0
    assert arena.peak_bytes == A + B + C

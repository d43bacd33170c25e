"""The size of a compute buffer: llama.cpp's graph allocator played through on tensor sizes alone.

Tensors live from the node that makes them to the last one that reads them; a freed block is filled by what fits it
best, and some operations write over their input. Source: ggml/src/ggml-alloc.c (ggml_dyn_tallocr_alloc, _free_bytes,
ggml_gallocr_allocate_node, ggml_gallocr_alloc_graph_impl). Not covered: buffers in several chunks, which only devices
with a largest buffer size have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ALIGNMENT = 64
_ENDLESS = 1 << 62


@dataclass(frozen=True)
class Node:
    """A tensor that the graph computes, or a view of one.

    n_bytes   0 where its place is somebody else's (the KV cache); of a view: those it shows
    reads     names of tensors it reads, in order; weights and caches are left out
    in_place  the operation may write over an input of the same layout
    view_of   name of the tensor whose memory it shows
    """

    name: str
    n_bytes: int
    reads: tuple[str, ...]
    in_place: bool = False
    view_of: str | None = None


@dataclass
class _Place:
    n_bytes: int
    view_of: str | None = None
    offset: int = 0
    allocated: bool = False
    n_children: int = 0
    n_views: int = 0


@dataclass
class Arena:
    """Free blocks (offset, bytes) by address; the last one has no end."""

    free: list[list[int]] = field(default_factory=lambda: [[0, _ENDLESS]])
    peak_bytes: int = 0

    def take(self, n_bytes: int) -> int:
        """The offset of a new block: in the smallest hole that holds it, the last of equals, else behind everything."""
        n_bytes = _aligned(n_bytes)
        best = -1
        for i, (_, room) in enumerate(self.free[:-1]):
            if room >= n_bytes and (best < 0 or room <= self.free[best][1]):
                best = i
        block = self.free[best]  # -1 is the last, endless one
        offset = block[0]
        block[0] += n_bytes
        block[1] -= n_bytes
        if not block[1]:
            del self.free[best]
        self.peak_bytes = max(self.peak_bytes, offset + n_bytes)
        return offset

    def give(self, offset: int, n_bytes: int) -> None:
        """Free a block, joined with its free neighbours."""
        n_bytes = _aligned(n_bytes)
        at = next(i for i, block in enumerate(self.free) if block[0] > offset)
        self.free.insert(at, [offset, n_bytes])
        for i in (at, at - 1):
            if 0 <= i < len(self.free) - 1 and sum(self.free[i]) == self.free[i + 1][0]:
                self.free[i][1] += self.free.pop(i + 1)[1]


def peak_bytes(inputs: Sequence[tuple[str, int]], nodes: Sequence[Node]) -> int:
    """Bytes of the buffer that a graph needs; inputs (name, bytes) are placed first, in order."""
    return _Graph(inputs, nodes).run()


class _Graph:
    def __init__(self, inputs: Sequence[tuple[str, int]], nodes: Sequence[Node]) -> None:
        self._arena, self._nodes = Arena(), nodes
        self._places = {name: _Place(n_bytes) for name, n_bytes in inputs}
        for name, _ in inputs:
            self._allocate(self._places[name])
        for node in nodes:
            self._places[node.name] = _Place(node.n_bytes, node.view_of)
            if node.view_of:
                self._places[node.view_of].n_views += 1
            for name in node.reads:
                self._places[name].n_children += 1

    def run(self) -> int:
        for node in self._nodes:
            place = self._places[node.name]
            if node.view_of is None and node.n_bytes and not (node.in_place and self._reuse(node, place)):
                self._allocate(place)
            for name in node.reads:
                self._release(self._places[name])
        return self._arena.peak_bytes

    def _allocate(self, place: _Place) -> None:
        place.offset, place.allocated = self._arena.take(place.n_bytes), True

    def _reuse(self, node: Node, place: _Place) -> bool:
        """Take over the memory of an input of the same size that nothing else will read."""
        for name in node.reads:
            parent = self._places[name]
            owner = self._places[parent.view_of] if parent.view_of else parent
            alone = parent.n_children == 1 and parent.n_views == 0
            if parent.view_of:
                alone = alone and owner.n_views == 1 and owner.n_children == 0
            if owner.allocated and alone and parent.n_bytes == node.n_bytes:
                place.offset, place.allocated, owner.allocated = owner.offset, True, False
                return True
        return False

    def _release(self, place: _Place) -> None:
        place.n_children -= 1
        if place.n_children or place.n_views:
            return
        owner = place
        if place.view_of:
            owner = self._places[place.view_of]
            owner.n_views -= 1
            if owner.n_views or owner.n_children:
                return
        if owner.allocated:
            owner.allocated = False
            self._arena.give(owner.offset, owner.n_bytes)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT

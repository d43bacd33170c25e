"""Which sequence ids carry which node of a tree in a unified KV cache (docs/trees.md).

A sequence is one root-to-leaf path. Spare sequences keep the conversation's prefix between rounds, so that lending
one to a leaf copies only what is new: llama.cpp keeps an ordered map per sequence, and copying a whole prefix for
every leaf would cost more than a draft step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as lib

from edgespec.errors import InvalidBatch
from edgespec.types import Span


@dataclass
class SlotState:
    """One conversation: its own sequence, its committed length, and the uncommitted nodes of the current tree."""

    seq: int
    length: int = 0
    seq_of: dict[int, int] = field(default_factory=dict)
    tip: dict[int, int] = field(default_factory=dict)
    lent: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)


class Sequences:
    """Lends spare sequences to the leaves of trees; calls only llama_memory_seq_* on `memory`."""

    def __init__(self, memory: ctypes.c_void_p, n_slots: int, n_spare: int, first_spare: int) -> None:
        self._memory = memory
        self.slots = [SlotState(seq=s) for s in range(n_slots)]
        self._owner: dict[int, int] = {}
        self._synced: dict[int, int] = {}
        self._free = list(range(first_spare + n_spare - 1, first_spare - 1, -1))

    def place(self, span: Span) -> list[list[int]]:
        """Sequences of each node in the span, lending one to every leaf but the first below each tip.

        Raises InvalidBatch when more leaves stand than sequences are left.
        """
        slot = self.slots[span.slot]
        nodes = [int(n) for n in span.nodes]
        parents = span.tree.parent
        carried: dict[int, list[int]] = {n: [] for n in nodes}
        inner = {int(parents[n]) for n in nodes}
        for leaf in nodes:
            if leaf in inner:
                continue
            path = [leaf]
            while (base := int(parents[path[-1]])) in carried:
                path.append(base)
            if base >= 0 and base not in slot.seq_of:
                raise InvalidBatch(f"node {path[-1]} was sent before its parent {base} was evaluated")
            seq = self._extend(span.slot, base, int(span.tree.depth[path[-1]]))
            slot.tip[seq] = leaf
            for node in path:
                carried[node].append(seq)
        slot.seq_of.update((n, s[0]) for n, s in carried.items())
        slot.order.extend(nodes)
        return list(carried.values())

    def _extend(self, index: int, base: int, depth: int) -> int:
        """A sequence that ends at node `base` (-1: at the prefix) and may take a token of the given depth."""
        slot = self.slots[index]
        seq = slot.seq if base < 0 else slot.seq_of[base]
        if slot.tip.get(seq, -1) == base:
            return seq
        spare = self._lend(index)
        if base >= 0:
            lib.llama_memory_seq_cp(self._memory, seq, spare, slot.length, slot.length + depth)
        return spare

    def _lend(self, index: int) -> int:
        slot = self.slots[index]
        if not self._free:
            raise InvalidBatch(
                f"the tree needs more than {len(slot.lent) + 1} leaves; open the context with more max_leaves"
            )
        at = next((i for i in range(len(self._free) - 1, -1, -1) if self._owner.get(self._free[i]) == index), -1)
        seq = self._free.pop(at)
        if self._owner.get(seq) != index:
            lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
            self._owner[seq], self._synced[seq] = index, 0
        if self._synced[seq] < slot.length:
            lib.llama_memory_seq_cp(self._memory, slot.seq, seq, self._synced[seq], slot.length)
            self._synced[seq] = slot.length
        slot.lent.append(seq)
        return seq

    def commit(self, index: int, path: Sequence[int]) -> None:
        """Make the path's rows part of the conversation's own sequence and drop the rest of the tree."""
        slot = self.slots[index]
        seq = slot.seq_of[path[-1]] if path else slot.seq
        end = slot.length + len(path)
        if seq == slot.seq:
            lib.llama_memory_seq_rm(self._memory, slot.seq, end, -1)
        else:
            lib.llama_memory_seq_rm(self._memory, slot.seq, slot.length, -1)
            lib.llama_memory_seq_cp(self._memory, seq, slot.seq, slot.length, end)
        self.forget_tree(index)
        slot.length = end

    def forget_tree(self, index: int) -> None:
        """Take every lent sequence back to the committed prefix; the slot's own sequence is the caller's to trim."""
        slot = self.slots[index]
        for seq in slot.lent:
            lib.llama_memory_seq_rm(self._memory, seq, slot.length, -1)
        self._free.extend(reversed(slot.lent))
        slot.seq_of.clear()
        slot.tip.clear()
        slot.lent.clear()
        slot.order.clear()

    def truncate(self, index: int, length: int) -> bool:
        """Roll the slot back; False where the runtime cannot (recurrent state)."""
        slot = self.slots[index]
        done = bool(lib.llama_memory_seq_rm(self._memory, slot.seq, length, -1))
        self.forget_tree(index)
        for seq, owner in self._owner.items():
            if owner == index and self._synced[seq] > length:
                lib.llama_memory_seq_rm(self._memory, seq, length, -1)
                self._synced[seq] = length
        slot.length = min(slot.length, length)
        return done

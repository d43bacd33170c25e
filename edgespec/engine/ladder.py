"""Configurations from wide to narrow, and which one runs: steps between rounds, room for a growing conversation.

A step exchanges what differs and nothing else. The conversation is kept as state, and in any case as the ids the engine
holds, until another context has it (docs/ladder.md). Not covered: choosing the rungs (memory/plan.py), moving the
target's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np

from edgespec.engine.growth import FIRST, PAD, required, wanted
from edgespec.engine.notices import grown, mib, stepped
from edgespec.engine.parts import Parts
from edgespec.engine.setup import Build, Setup
from edgespec.errors import BadSetting, DoesNotFit, DrafterUnusable
from edgespec.memory.configuration import Configuration, as_opened
from edgespec.memory.pressure import Calm, Reading, Watch, decide, flapped
from edgespec.types import Ids, Notice


class Ladder:
    """Owns what is opened; `setup` is what runs, changed in place, `rung` which of the rungs it is."""

    def __init__(
        self,
        rungs: Sequence[Configuration],
        build: Build,
        *,
        start: int = 0,
        watch: Watch | None = None,
        bytes_of: Callable[[Configuration], int] | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        """Opens rung `start`, or the first one below that fits, for a first short turn.

        rungs     widest first, of one placement
        watch     None: no step is taken but where a growing conversation no longer fits
        bytes_of  what a configuration takes as it is written; None: steps cost nothing and growth is tried blindly
        limit_bytes  what all of it may take, whatever the machine has; None: what is free
        Raises DoesNotFit or DrafterUnusable where none can be opened, BadSetting.
        """
        if not 0 <= start < len(rungs):
            raise BadSetting(f"rung {start} is not on a ladder of {len(rungs)}; use 0 to {len(rungs) - 1}")
        if any(rung.placement != rungs[0].placement for rung in rungs):
            raise BadSetting("the rungs of a ladder place the target differently; load it again to move its weights")
        if any(low.target.n_ctx > high.target.n_ctx for high, low in pairwise(rungs)):
            raise BadSetting("a rung promises a longer context than the one above it; order them widest first")
        self._rungs, self._build, self._watch, self._bytes_of = tuple(rungs), build, watch, bytes_of
        self._limit_bytes = limit_bytes
        self._calm = Calm(0, watch.marks.patience if watch else 1)
        self._n_rest = 0
        self._up_bytes: int | None = None
        self._parts = Parts(build)
        self._settled = False
        self.rung = start
        try:
            self._open_first_of(range(start, len(rungs)), np.zeros(FIRST, np.int32), 0)
        except BaseException:
            self._parts.close()
            raise
        assert self._parts.target is not None
        c = self.configuration
        drafters, contexts = self._parts.drafters, self._parts.draft_contexts
        self.setup = Setup(self._parts.target, drafters, build.controller(c), _method(c), contexts, build.learners)

    @property
    def configuration(self) -> Configuration:
        """The one that runs, with what it promises."""
        return self._rungs[self.rung]

    @property
    def n_ctx_most(self) -> int:
        """The longest conversation that any rung promises."""
        return max(rung.target.n_ctx for rung in self._rungs)

    def reopen(self, history: Ids) -> None:
        """Open again what an error left closed, before anything else is asked of the setup; raises DoesNotFit.

        history: begins with what the target held.
        """
        if not self._settled:
            self._run_on(self._from(self.rung, len(history), 0), history, 0)

    def make_room(self, history: Ids, n_left: int, n_said: int = 0) -> list[Notice]:
        """Let the next round's tokens fit, going down the ladder where they do not; what was done, to be told.

        history   every id with the pending one; what the target's context holds is a part of it from its beginning
        n_left    tokens the answer may still get; n_said those it has
        Raises DoesNotFit where the conversation outgrew the memory on every rung, Cancelled while it is read again.
        """
        spec = self._parts.spec
        if spec is not None and required(self.configuration, len(history), n_left) <= spec.n_ctx:
            return []
        return self._grow(history, n_left, n_said)

    def between_rounds(self, history: Ids, n_left: int, n_said: int) -> list[Notice]:
        """Look at the memory, step if that is called for, and make room. Arguments and errors as make_room."""
        if self._watch is None:
            return self.make_room(history, n_left, n_said)
        if self._n_rest:
            self._n_rest -= 1
            return self.make_room(history, n_left, n_said)
        reading = self._watch.read()
        move, self._calm = decide(reading.free_bytes, self._up_bytes, self._watch.marks, self._calm)
        if move == "stay":
            return self.make_room(history, n_left, n_said)
        notices = self._step(move == "down", reading, self._watch, history, n_left, n_said)
        return [*notices, *self.make_room(history, n_left, n_said)]

    def _step(self, down: bool, reading: Reading, watch: Watch, history: Ids, n_left: int, n_said: int) -> list[Notice]:
        """Down to where enough is free, or one rung up; where that cannot be opened, back or further down.

        A step down that could not be taken is not tried again for a while. Raises DoesNotFit, Cancelled.
        """
        before, below = self.rung, self._from(self.rung + 1, len(history), n_left)
        if down:
            below = self._freeing(below, watch.marks.low_bytes - reading.free_bytes)
        if down and not below:
            return []
        try:
            self._run_on([*below, before] if down else [before - 1, before, *below], history, n_left)
        except DoesNotFit as error:
            raise _shut_out(reading, watch.marks.low_bytes, error) from error
        n_down = self.rung - before
        if n_down <= 0 if down else n_down >= 0:
            self._calm = flapped(watch.marks, self._calm)
            self._n_rest = self._calm.n_wanted if down else 0
        if not n_down:
            return []
        low = watch.marks.low_bytes
        return [stepped(self._rungs[before], self.configuration, reading, low, n_down > 0, n_said)]

    def _from(self, first: int, n_history: int, n_left: int) -> list[int]:
        """Rungs from `first` down, this one or such as hold the conversation and some more of its answer."""
        least = n_history + min(n_left, PAD)
        return [i for i in range(first, len(self._rungs)) if i == self.rung or self._rungs[i].target.n_ctx >= least]

    def _freeing(self, below: list[int], lacking_bytes: int) -> list[int]:
        """Rungs of `below` that take less than is taken now, as long as the conversation is, in the order to be tried:
        from the first that frees what is lacking on, or where none does, from the last."""
        spec = self._parts.spec
        if self._bytes_of is None or spec is None:
            return below
        here = self._opened_bytes(self.rung, spec.n_ctx)
        freed = {i: here - self._opened_bytes(i, spec.n_ctx) for i in below}
        enough = [i for i in below if freed[i] >= max(lacking_bytes, 1)]
        return enough or [i for i in reversed(below) if freed[i] > 0]

    def _grow(self, history: Ids, n_left: int, n_said: int) -> list[Notice]:
        """More room on this rung, or on the first one below that can have it."""
        before, n_before = self.rung, self._parts.spec.n_ctx if self._parts.spec else 0
        order = self._from(before, len(history), n_left)
        reading = self._watch.read() if self._watch else None
        if self._watch is not None and reading is not None:
            order, n_left = self._affordable(order, len(history), n_left, reading, self._watch.marks.low_bytes)
        needed = self._growth_bytes(before, len(history), n_left)
        try:
            self._run_on(order, history, n_left)
        except DoesNotFit as error:
            raise _outgrown(len(history), needed, reading, error) from error
        finally:
            self._parts.copies = True
        if self.rung > before and self._watch is not None and self._calm.climbed:
            self._calm = flapped(self._watch.marks, self._calm)
        assert self._parts.spec is not None
        notices = []
        if self.rung != before:
            notices.append(
                stepped(self._rungs[before], self.configuration, reading, needed, self.rung > before, n_said)
            )
        if self._parts.spec.n_ctx > n_before:
            notices.append(grown(self._parts.spec.n_ctx, self.configuration.target.n_ctx, n_said))
        return notices

    def _affordable(
        self, order: Sequence[int], n_history: int, n_left: int, reading: Reading, low_bytes: int
    ) -> tuple[list[int], int]:
        """Rungs of `order` whose growth leaves the low mark free, or such as can be had at all, the cheapest first; and
        how much of the answer room is made for: less where that helps. Where its copy has no room beside the new
        context the conversation is read again instead. Raises DoesNotFit."""
        needs: dict[int, int] = {}
        free, least = self._free_bytes(reading), min(n_left, self.configuration.target.max_nodes)
        for spare, copies, room in product((low_bytes, 0), (True, False), (n_left, least)):
            needs = {rung: self._growth_bytes(rung, n_history, room, copies) for rung in order}
            found = [rung for rung in order if needs[rung] + spare <= free]
            if found:
                self._parts.copies = copies
                return (found if spare else sorted(found, key=needs.__getitem__)), room
        raise _outgrown(n_history, min(needs.values()), replace(reading, free_bytes=free), DoesNotFit(""))

    def _free_bytes(self, reading: Reading) -> int:
        """What may still be taken: what is free, within the limit."""
        spec = self._parts.spec
        if self._limit_bytes is None or self._bytes_of is None or spec is None:
            return reading.free_bytes
        taken = self._bytes_of(as_opened(self.configuration, spec.n_ctx))
        return min(reading.free_bytes, max(self._limit_bytes - taken, 0))

    def _growth_bytes(self, rung: int, n_history: int, n_left: int, copies: bool = True) -> int:
        """What growing on a rung takes beyond what is taken now, the conversation's copy on its way included."""
        spec, c = self._parts.spec, self._rungs[rung]
        if self._bytes_of is None or spec is None:
            return 0
        there = as_opened(self.configuration, spec.n_ctx)
        full, empty = (self._bytes_of(replace(as_opened(self.configuration, n), draft=None)) for n in (spec.n_ctx, 1))
        n_copied = (full - empty) * min(n_history, spec.n_ctx) // spec.n_ctx if copies else 0
        return self._bytes_of(as_opened(c, wanted(c, n_history, n_left))) - self._bytes_of(there) + n_copied

    def _run_on(self, order: Iterable[int], history: Ids, n_left: int) -> None:
        """Run on the first of these rungs that can be opened; raises DoesNotFit where none can."""
        before = self.rung
        try:
            self._open_first_of(order, history, n_left)
        except DrafterUnusable as error:
            raise DoesNotFit(str(error)) from error
        if self.rung != before:
            c = self.configuration
            self.setup.controller, self.setup.method = self._build.controller(c), _method(c)

    def _open_first_of(self, order: Iterable[int], history: Ids, n_left: int) -> None:
        """Raises what the last one raised where none can be opened."""
        failure: Exception | None = None
        for rung, room in ((i, room) for i in order for room in self._rooms(i, n_left)):
            self._settled = False
            try:
                self._parts.bring(self._rungs[rung], history, room)
            except (DoesNotFit, DrafterUnusable) as error:
                failure = error
            except MemoryError:
                failure = DoesNotFit("the process ran out of memory; use a smaller --context")
            else:
                self._settled, self.rung = True, rung
                self._up_bytes = self._climb_bytes()
                return
        assert failure is not None
        raise failure

    def _rooms(self, rung: int, n_left: int) -> list[int]:
        """How much of the answer to make room for: what is wanted, then just the next round."""
        least = min(n_left, self._rungs[rung].target.max_nodes)
        return [n_left, least] if least < n_left else [n_left]

    def _climb_bytes(self) -> int | None:
        """What the rung above takes beyond this one, as long as the conversation is now; None at the top."""
        spec = self._parts.spec
        if self.rung == 0 or spec is None:
            return None
        if self._bytes_of is None:
            return 0
        above, here = (self._opened_bytes(i, spec.n_ctx) for i in (self.rung - 1, self.rung))
        return max(above - here, 0)

    def _opened_bytes(self, rung: int, n_ctx: int) -> int:
        assert self._bytes_of is not None
        return self._bytes_of(as_opened(self._rungs[rung], min(n_ctx, self._rungs[rung].target.n_ctx)))


def _method(c: Configuration) -> str:
    if c.choice.plain:
        return "lookup" if c.sources else "plain"
    return c.choice.drafter


def _shut_out(reading: Reading, wanted_bytes: int, error: DoesNotFit) -> DoesNotFit:
    return DoesNotFit(
        f"memory ran out between rounds ({mib(reading.free_bytes)} free {reading.limit}, {mib(wanted_bytes)} wanted) "
        f"and nothing narrower could be opened ({error}); close other programs and ask again"
    )


def _outgrown(n_tokens: int, needed_bytes: int, reading: Reading | None, error: DoesNotFit) -> DoesNotFit:
    if reading is None:
        return error
    return DoesNotFit(
        f"a conversation of more than {n_tokens} tokens needs {mib(needed_bytes)} of memory beyond what it has, "
        f"{mib(reading.free_bytes)} is free {reading.limit}; close other programs, begin a new conversation, or use a "
        "smaller --context"
    )

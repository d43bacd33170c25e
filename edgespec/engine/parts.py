"""What is open of a configuration, and how another one takes its place: only what differs is exchanged.

Not covered: which configuration comes next (ladder.py).
"""

from __future__ import annotations

from dataclasses import replace

from edgespec.engine.clock import TimedContext
from edgespec.engine.growth import holds, required, wanted
from edgespec.engine.setup import NOTHING, SLOT, Build, Held, take
from edgespec.memory.configuration import Configuration, DraftModel, as_opened
from edgespec.speculation.drafters.base import Drafter
from edgespec.types import ContextSpec, Ids


class Parts:
    """The open contexts and drafters.

    target          the same object for life once it is open; what it stands for is exchanged
    copies          a conversation moves as the runtime's state; False: it is read again, which needs no room for a copy
    spec            of what the target's context was opened with; None: it is closed, the conversation is held
    drafters, draft_contexts  those in use, by the name a Choice has for them; changed in place
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self.target: TimedContext | None = None
        self.spec: ContextSpec | None = None
        self.copies = True
        self.drafters: dict[str, Drafter] = {}
        self.draft_contexts: list[TimedContext] = []
        self._held: Held = NOTHING
        self._loaded: DraftModel | None = None  # whose weights are there
        self._cache: DraftModel | None = None  # what its context was opened as
        self._made: dict[tuple[object, ...], tuple[dict[str, Drafter], TimedContext]] = {}
        self.drafters.update(build.free)

    def bring(self, c: Configuration, history: Ids, n_left: int) -> None:
        """Open what a configuration needs for a conversation, closing first what it does not.

        history: begins with what the target holds. What could not be opened stays closed, to be tried again; a
        conversation in between is held. Raises DoesNotFit, DrafterUnusable, MemoryError, Cancelled.
        """
        spec, there = self._fitting_spec(c, len(history), n_left), self.spec
        draft = as_opened(c, spec.n_ctx).draft
        if self._loaded is not None and (draft is None or _weights(self._loaded) != _weights(draft)):
            self._unload(self._loaded)
        if spec != there:
            self._open_target(spec, history)
        if draft is None:
            return
        if self._cache is None or self._cache.window != draft.window or not holds(self._cache.context, draft.context):
            self._open_draft(draft)
        self.drafters.clear()
        self.drafters.update({**self._build.free, **self._made[_weights(draft)][0]})

    def close(self) -> None:
        """Every context; weights are for whoever loaded them."""
        for drafter in self.drafters.values():
            drafter.close()
        if self.target is not None:
            self.target.close()

    def _fitting_spec(self, c: Configuration, n_history: int, n_left: int) -> ContextSpec:
        """What is open where that will do, else as much as is wanted."""
        there, n_least = self.spec, required(c, n_history, n_left)
        if there is not None and there.n_ctx <= c.target.n_ctx and holds(there, replace(c.target, n_ctx=n_least)):
            return there
        return replace(c.target, n_ctx=wanted(c, n_history, n_left))

    def _open_target(self, spec: ContextSpec, history: Ids) -> None:
        if self.target is not None and self.spec is not None:
            self._held, self.spec = take(self.target, self.copies), None
        inner = self._build.target(spec)
        if self.target is None:
            self.target = TimedContext(inner)
        else:
            self.target.exchange(inner)
        self.spec, held, self._held = spec, self._held, NOTHING
        if not held.into(self.target) and held.n_tokens:
            self.target.prefill(SLOT, history[: held.n_tokens])

    def _open_draft(self, draft: DraftModel) -> None:
        """A drafter keeps what it learnt; its cache goes along where it is of the same kind."""
        drafters, context = self._made.get(_weights(draft), ({}, None))
        held = NOTHING
        if self._cache is not None and context is not None:
            held = take(context, copy=self._cache.window == draft.window)
            self._no_cache()
        self._loaded = draft
        inner = self._build.draft(draft)
        if context is None:
            context = TimedContext(inner)
            drafters = self._build.drafters(draft, context)
            self._made[_weights(draft)] = drafters, context
        else:
            context.exchange(inner)
        context.cancelled = self.target.cancelled if self.target else None
        moved = held.into(context)
        for drafter in drafters.values():
            if not moved:
                drafter.forget()
            drafter.limit(draft.window)
        self._cache = draft
        self.draft_contexts.append(context)

    def _no_cache(self) -> None:
        self._cache = None
        self.drafters.clear()
        self.drafters.update(self._build.free)
        self.draft_contexts.clear()

    def _unload(self, draft: DraftModel) -> None:
        """Close its cache and free its weights."""
        if self._cache is not None:
            self._made[_weights(draft)][1].close()
        self._no_cache()
        self._build.release(draft)
        self._loaded = None


def _weights(draft: DraftModel) -> tuple[object, ...]:
    return draft.name, draft.placement

"""What an engine runs on, how its parts are opened, and how a conversation is carried from one context to another.

Not covered: when parts are exchanged (ladder.py), how large they are (growth.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgespec.backends.base import Context, State
from edgespec.engine.clock import TimedContext
from edgespec.errors import BackendError
from edgespec.memory.configuration import Configuration, DraftModel
from edgespec.speculation.controllers import Controller
from edgespec.speculation.drafters.base import Drafter, Learner
from edgespec.types import ContextSpec

SLOT = 0


@dataclass
class Setup:
    """What runs now. The target's TimedContext stays the same one for life; what it stands for is exchanged.

    draft_contexts  those of the drafters, so that draft time is the runtime's own
    learners        what looks at every verified pass
    """

    target: TimedContext
    drafters: dict[str, Drafter]
    controller: Controller
    method: str
    draft_contexts: list[TimedContext] = field(default_factory=list)
    learners: Sequence[Learner] = ()


@dataclass(frozen=True)
class Build:
    """How to open what a configuration names; assemble makes it, so that the engine names no class.

    target      a context of the target's weights; raises DoesNotFit
    draft       a context of a drafter's, loading its weights unless they are there; raises DoesNotFit, DrafterUnusable
    drafters    what can draft on such a context, by the name a Choice has for it; they own and share it
    controller  what decides each round of a configuration
    release     frees a drafter's weights; all contexts of them are closed
    """

    target: Callable[[ContextSpec], Context]
    draft: Callable[[DraftModel], Context]
    drafters: Callable[[DraftModel, Context], dict[str, Drafter]]
    controller: Callable[[Configuration], Controller]
    release: Callable[[DraftModel], None]


@dataclass(frozen=True)
class Held:
    """A conversation outside any context: how long it is, and its state where that could be copied."""

    n_tokens: int
    kv_type: str
    blob: State | None

    def into(self, context: TimedContext) -> bool:
        """Whether the state went into a fresh context; if not, that is left empty and has to read the tokens again."""
        if self.blob is None or self.kv_type != context.spec.kv_type:
            return False
        try:
            context.import_state(SLOT, self.blob)
        except (BackendError, MemoryError):
            context.truncate(SLOT, 0)
            return False
        return True


NOTHING = Held(0, "", None)


def take(context: TimedContext, copy: bool = True) -> Held:
    """The conversation of a context, which is closed: two at a time may not fit."""
    n, spec = context.length(SLOT), context.spec
    blob = None
    if copy and n and context.caps.state_copy:
        try:
            blob = context.export_state(SLOT)
        except (BackendError, MemoryError):
            blob = None  # read again from its ids
    context.close()
    return Held(n, spec.kv_type, blob)

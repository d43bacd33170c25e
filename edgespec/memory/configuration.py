"""What a plan decides: everything that costs bytes or time, as one frozen value.

A ladder is a sequence of these, widest first. Not covered: choosing one (plan.py), opening it (assemble).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgespec.speculation.drafters.reader import N_SINK
from edgespec.speculation.policies import N_AHEAD, n_reads_at_most
from edgespec.types import PLAIN, Choice, ContextSpec


@dataclass(frozen=True)
class Placement:
    """Where a model's weights lie.

    n_gpu_layers    repeating layers on devices, counted from the last one as llama.cpp does; one more than there are
                    puts the head there too; 0: everything on the processor
    tensor_split    share of those layers by device, in the runtime's order; (): as the runtime divides them
    experts_on_cpu  the experts of a mixture stay on the processor whatever n_gpu_layers says
    streamed        what lies on the processor does not fit into memory: every pass reads it from the mapped file
    """

    n_gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    experts_on_cpu: bool = False
    streamed: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class DraftModel:
    """A drafter that is a model of its own.

    context  its n_ctx is the conversation's, whatever the window
    window   None: its cache holds the whole conversation; else the first N_SINK tokens and the last `window` ones
    """

    name: str
    context: ContextSpec
    placement: Placement = Placement()
    window: int | None = None


@dataclass(frozen=True)
class Configuration:
    """One way to run a model.

    choice     what a round drafts; PLAIN without a drafter
    target     its n_ctx is the longest conversation promised; what is allocated at first may be less (engine/growth)
    draft      None: nothing drafts, or what drafts needs no model
    sources    texts and rows of before take part in drafting (docs/sources.md), up to target.max_nodes rows
    expected   tokens over plain decoding's in the same time, as planned; 0: not known
    """

    target: ContextSpec
    choice: Choice = PLAIN
    placement: Placement = Placement()
    draft: DraftModel | None = None
    sources: bool = False
    expected: float = 0.0


def as_opened(configuration: Configuration, n_ctx: int) -> Configuration:
    """What is opened of a configuration for n_ctx tokens: what bytes are worked out for.

    A drafter reads its window, and nodes in vain: growth reads more tips than the tree keeps leaves, those that later
    fell behind.
    """
    target, draft = replace(configuration.target, n_ctx=n_ctx), configuration.draft
    if draft is None:
        return replace(configuration, target=target)
    n_read = n_ctx if draft.window is None else min(n_ctx, N_SINK + draft.window)
    context = replace(draft.context, n_ctx=n_read + n_reads_at_most(configuration.choice) + N_AHEAD)
    return replace(configuration, target=target, draft=replace(draft, context=context))

"""A conversation that outgrew its context: the oldest turns are left out, with a visible mark.

More is left out than must be, so that the next turns find their prompt in the cache: only when the conversation has
grown into its limit again is another part left out, and what remains read anew. Where it begins follows from the
messages and the context alone; a process that takes over in mid-answer is told where it began, since its context may
be another. Not covered: summing up what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgespec.types import Message, Notice

# Room for an answer of which no length was asked for, and the share of the context it may claim at most.
ANSWER, SHARE = 256, 4
# Share of the room for a prompt that is kept when turns are left out.
KEEP = 0.6
# Tokens that a template puts around a message, about.
AROUND = 8


@dataclass(frozen=True)
class Fitted:
    """A prompt, the message that it begins with (system messages stay in any case), and the mark."""

    prompt: list[int]
    start: int = 0
    notices: tuple[Notice, ...] = ()


def fitted(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    count: Callable[[Message], int],
    n_ctx: int,
    max_tokens: int | None,
    n_said: int = 0,
) -> Fitted:
    """The prompt without the oldest turns where an answer would have no room beside all of them; and the mark.

    count: tokens of a message, about; n_said: tokens of the answer that stand behind the prompt already. System
    messages and the last message asked stay, whatever their length: what does not fit even so is for the engine to
    refuse. Raises what `encode` raises.
    """
    room = n_ctx - n_said - min(max_tokens or ANSWER, n_ctx // SHARE)
    prompt = encode(messages)
    cuts = _cuts(messages)
    if len(prompt) <= room or not cuts:
        return Fitted(prompt)
    start = _start(messages, [count(message) + AROUND for message in messages], cuts, room)
    for cut in [cut for cut in cuts if cut >= start]:  # the counts are not exact
        left = _without(messages, cut)
        prompt = encode(left)
        if len(prompt) <= room:
            break
    n_out = len(messages) - len(left)
    if len(prompt) + n_said + 1 > n_ctx:
        return Fitted(prompt, cut)
    what = "the oldest message no longer fits" if n_out == 1 else f"the oldest {n_out} messages no longer fit"
    was = "was" if n_out == 1 else "were"
    mark = Notice("turns", f"{what} into the context of {n_ctx} tokens and {was} left out", n_said)
    return Fitted(prompt, cut, (mark,))


def resumed(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    count: Callable[[Message], int],
    n_ctx: int,
    max_tokens: int | None,
    n_said: int,
    start: int,
) -> Fitted:
    """The prompt of an answer of which n_said tokens were said elsewhere, where the conversation began with message
    `start`: the same, whatever the context is here, as long as it holds prompt and n_said. Where it has become too
    short for them more is left out, with another mark. Raises what `encode` raises.
    """
    prompt = encode(_without(messages, start))
    if len(prompt) + n_said <= n_ctx:
        return Fitted(prompt, start)
    n_more = None if max_tokens is None else max(max_tokens - n_said, 1)
    return fitted(messages, encode, count, n_ctx, n_more, n_said)


def _start(messages: Sequence[Message], n_tokens: Sequence[int], cuts: Sequence[int], room: int) -> int:
    """Where the conversation begins: played through as it grew, cut to KEEP of the room whenever it had outgrown it."""
    fixed = sum(n for message, n in zip(messages, n_tokens, strict=True) if message.role == "system")
    ends = [0]
    for message, n in zip(messages, n_tokens, strict=True):
        ends.append(ends[-1] + (0 if message.role == "system" else n))
    start = 0
    for asked in cuts:
        if fixed + ends[asked + 1] - ends[start] + AROUND > room:
            later = [cut for cut in cuts if start < cut <= asked]
            kept = [cut for cut in later if fixed + ends[asked + 1] - ends[cut] <= KEEP * room]
            start = kept[0] if kept else asked
    return start or cuts[0]


def _cuts(messages: Sequence[Message]) -> list[int]:
    """Where a conversation may begin when what came before is left out: at each message of the user but the first."""
    return [i for i, message in enumerate(messages) if message.role == "user"][1:]


def _without(messages: Sequence[Message], start: int) -> list[Message]:
    return [m for i, m in enumerate(messages) if i >= start or m.role == "system"]

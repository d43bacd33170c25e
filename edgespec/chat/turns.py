"""A conversation that outgrew its context: the oldest turns are left out, with a visible mark.

The cache then holds another beginning than the prompt, so what is left is read again from its first token. Not covered:
summing up what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgespec.types import Message, Notice

# Room for an answer of which no length was asked for, and the share of the context it may claim at most.
ANSWER, SHARE = 256, 4


def fitted(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], n_ctx: int, max_tokens: int | None
) -> tuple[list[int], list[Notice]]:
    """The prompt without as many of the oldest turns as it takes, so that an answer has room; and the mark.

    System messages and the last message asked stay, whatever their length: what does not fit even so is for the engine
    to refuse. Raises what `encode` raises.
    """
    room = n_ctx - min(max_tokens or ANSWER, n_ctx // SHARE)
    prompt = encode(messages)
    cuts = _cuts(messages)
    if len(prompt) <= room or not cuts:
        return prompt, []
    low, high = 0, len(cuts) - 1  # the shortest cut that fits, else the last
    while low < high:
        middle = (low + high) // 2
        if len(encode(_without(messages, cuts[middle]))) <= room:
            high = middle
        else:
            low = middle + 1
    left = _without(messages, cuts[low])
    prompt, n_out = encode(left), len(messages) - len(left)
    if len(prompt) + 1 > n_ctx:
        return prompt, []
    what = "the oldest message no longer fits" if n_out == 1 else f"the oldest {n_out} messages no longer fit"
    was = "was" if n_out == 1 else "were"
    return prompt, [Notice("turns", f"{what} into the context of {n_ctx} tokens and {was} left out")]


def _cuts(messages: Sequence[Message]) -> list[int]:
    """Where a conversation may begin when what came before is left out: at each message of the user but the first."""
    return [i for i, message in enumerate(messages) if message.role == "user"][1:]


def _without(messages: Sequence[Message], start: int) -> list[Message]:
    return [m for i, m in enumerate(messages) if i >= start or m.role == "system"]

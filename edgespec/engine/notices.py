"""Sentences about the ladder for the user. Not covered: when they are said."""

from __future__ import annotations

from edgespec.memory.configuration import Configuration
from edgespec.memory.pressure import Reading
from edgespec.types import Notice


def mib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 20):.0f} MiB"


def stepped(
    before: Configuration, after: Configuration, reading: Reading | None, needed_bytes: int, down: bool, n_said: int
) -> Notice:
    """A step of the ladder; needed_bytes: what should have been free, where it went down."""
    free = f"{mib(reading.free_bytes)} free {reading.limit}" if reading else ""
    if not down:
        why = f"memory is free again ({free})"
    elif free:
        why = f"memory is short ({free}, {mib(needed_bytes)} wanted)"
    else:
        why = "memory is short"
    return Notice("ladder", f"{why}: {difference(before, after)}", n_said)


def grown(n_opened: int, n_promised: int, n_said: int) -> Notice:
    return Notice("context", f"room was made for {n_opened} of {n_promised} tokens", n_said)


def difference(before: Configuration, after: Configuration) -> str:
    """What changed, as clauses, the weightiest first."""
    said = [*_of_draft(before, after), *_of_target(before, after)]
    return ", ".join(said) or "nothing that shows changed"


def _of_draft(before: Configuration, after: Configuration) -> list[str]:
    old, new = before.draft, after.draft
    if new is None:
        return ["nothing drafts now"] if old is not None or (not before.choice.plain and after.choice.plain) else []
    said = []
    if old is None or old.name != new.name:
        said.append(f"{new.name} drafts now")
    elif old.context.kv_type != new.context.kv_type:
        said.append(f"the drafter's cache is {new.context.kv_type} now")
    if old is not None and old.window != new.window:
        reach = "the whole conversation" if new.window is None else f"the last {new.window} tokens"
        said.append(f"the drafter reads {reach} now")
    if old is not None and before.choice.rows != after.choice.rows:
        said.append(f"a pass has {after.choice.rows} rows now")
    return said


def _of_target(before: Configuration, after: Configuration) -> list[str]:
    old, new = before.target, after.target
    said = []
    if old.n_ctx != new.n_ctx:
        said.append(f"the context holds {new.n_ctx} tokens now")
    if old.kv_type != new.kv_type:
        said.append(f"the cache is {new.kv_type} now")
    if old.n_ubatch != new.n_ubatch:
        said.append(f"prompts are read {new.n_ubatch} tokens at a time now")
    return said

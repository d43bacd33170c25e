"""Dev prompts as token ids, spread over their categories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edgespec.backends.base import Model

DATA = Path(__file__).parent / "data"


def dev_prompts(model: Model, n: int, longest: int) -> list[list[int]]:
    """n prompts of at most `longest` tokens in the demo family's chat form, taking the categories in turn.

    Raises ValueError when the file holds fewer.
    """
    by_category: dict[str, list[list[int]]] = {}
    for category, ids in _every(model):
        if len(ids) <= longest:
            by_category.setdefault(category, []).append(ids)
    queues = list(by_category.values())
    found: list[list[int]] = []
    while queues and len(found) < n:
        for queue in queues:
            found.append(queue.pop(0))
        queues = [q for q in queues if q]
    if len(found) < n:
        raise ValueError(f"{n} prompts of at most {longest} tokens were asked for, {len(found)} are there")
    return found[:n]


def categories(model: Model, prompts: list[list[int]]) -> list[str]:
    """Of prompts that `dev_prompts` gave."""
    known = {tuple(ids): category for category, ids in _every(model)}
    return [known[tuple(ids)] for ids in prompts]


def _every(model: Model) -> Iterator[tuple[str, list[int]]]:
    for line in (DATA / "prompts_dev.jsonl").read_text().splitlines():
        entry = json.loads(line)
        text = f"<|bos|><|user|>{entry['turns'][0]}<|end|><|assistant|>"
        yield entry["category"], model.tokenize(text.encode(), special=True)

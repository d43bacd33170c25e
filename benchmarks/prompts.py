"""Dev prompts as token ids, spread over their categories."""

from __future__ import annotations

import json
from pathlib import Path

from edgespec.backends.base import Model

DATA = Path(__file__).parent / "data"


def dev_prompts(model: Model, n: int, longest: int) -> list[list[int]]:
    """n prompts of at most `longest` tokens in the demo family's chat form, taking the categories in turn.

    Raises ValueError when the file holds fewer.
    """
    by_category: dict[str, list[list[int]]] = {}
    for line in (DATA / "prompts_dev.jsonl").read_text().splitlines():
        entry = json.loads(line)
        text = f"<|bos|><|user|>{entry['turns'][0]}<|end|><|assistant|>"
        ids = model.tokenize(text.encode(), special=True)
        if len(ids) <= longest:
            by_category.setdefault(entry["category"], []).append(ids)
    queues = list(by_category.values())
    found: list[list[int]] = []
    while queues and len(found) < n:
        for queue in queues:
            found.append(queue.pop(0))
        queues = [q for q in queues if q]
    if len(found) < n:
        raise ValueError(f"{n} prompts of at most {longest} tokens were asked for, {len(found)} are there")
    return found[:n]

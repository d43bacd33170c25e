"""What the suffix automaton costs: bytes a token, microseconds an append and a look, on text and on the worst texts.

    python benchmarks/suffix.py --text train.txt.xz

Text is the prompts and answers of benchmarks/data, then the head of --text, in the demo model's tokens. Targets, set
before measuring: 10 us an append, 15 us a look (here + children), 70 bytes a token. Not covered: what drafts are worth.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import record

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.speculation.drafters.automaton import MOST_COUNTED, NOWHERE, Automaton, from_columns

DEMO = record.ROOT / "edgespec" / "demo" / "demo.gguf"
DATA = record.ROOT / "benchmarks" / "data"
SIZES = (1_000, 16_000, 128_000)
N_LOOKS = 2_000
N_CHILDREN = 8
N_REPEATS = 5
Texts = list[list[int]]


def raw_texts(head: Path | None) -> Iterator[bytes]:
    for name in ("prompts_dev.jsonl", "answers_recorded.jsonl"):
        for line in (DATA / name).read_text().splitlines():
            entry = json.loads(line)
            yield "\n".join([*entry["turns"], *entry.get("answers", [])]).encode()
    if head is not None:
        opened = lzma.open(head) if head.suffix == ".xz" else open(head, "rb")  # noqa: SIM115  # closed below
        with opened as file:
            yield from file.read(2 << 20).split(b"<|endoftext|>")


def first(texts: Texts, n: int) -> Texts:
    """The first n tokens."""
    found = []
    for text in texts:
        found.append(text[:n])
        n -= len(found[-1])
        if n <= 0:
            break
    return found


def build(texts: Texts, n_most: int) -> Automaton:
    automaton = Automaton(n_most)
    for text in texts:
        automaton.separate()
        automaton.extend(text)
    return automaton


def microseconds(start: float, n: int) -> float:
    return (time.perf_counter() - start) / n * 1e6


def looks(automaton: Automaton, tokens: list[int]) -> list[float]:
    """Microseconds of here + children after each further token of a text, as a round of drafting asks."""
    found = []
    for token in tokens:
        automaton.append(token)
        start = time.perf_counter()
        automaton.children(automaton.here(), N_CHILDREN)
        found.append(microseconds(start, 1))
    return found


def walks(automaton: Automaton, tokens: list[int]) -> list[float]:
    """Microseconds of advance + children, as each node of a draft asks; where nothing matches the root is listed."""
    found, match = [], NOWHERE
    for token in tokens:
        start = time.perf_counter()
        match = automaton.advance(match, token)
        automaton.children(match, N_CHILDREN)
        found.append(microseconds(start, 1))
    return found


def n_suffixes(automaton: Automaton) -> list[int]:
    """How many states each state's links lead through: what an append counts."""
    link = automaton.arrays().link
    depth = np.zeros(len(link), np.int64)
    at = np.arange(len(link))
    while (at > 0).any():
        depth += at > 0
        at = np.where(at > 0, link[at], 0)
    return depth.tolist()


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(values)), 2),
        "mean": round(float(np.mean(values)), 2),
        "p99": round(float(np.percentile(values, 99)), 2),
    }


def measure(texts: Texts, following: list[int], n: int) -> dict[str, object]:
    """One size: n tokens of texts, then looks along `following`, which goes on where they end (worst texts: again)."""
    appends = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        automaton = build(texts, n + len(following))
        appends.append(microseconds(start, n))
    depth = n_suffixes(automaton)
    n_bytes, kept = automaton.n_bytes, automaton.arrays()
    start = time.perf_counter()
    from_columns(kept)
    load_ms = microseconds(start, 1) / 1000
    start = time.perf_counter()
    automaton.compacted(n // 2)
    compact_ms = microseconds(start, 1) / 1000
    automaton.separate()
    return {
        "n_tokens": n,
        "bytes_per_token": round(n_bytes / n, 1),
        "file_bytes_per_token": round(sum(c.nbytes for c in kept.named().values()) / n, 1),
        "states_per_token": round(len(kept.length) / n, 2),
        "further_edges_per_token": round(len(kept.source) / n, 2),
        "append_us": {"best": round(min(appends), 2), "median": round(float(np.median(appends)), 2)},
        "walk_us": spread(walks(automaton, following)),
        "look_us": spread(looks(automaton, following)),
        "from_columns_ms": round(load_ms, 1),
        "compact_to_half_ms": round(compact_ms, 1),
        "suffixes": {"mean": round(float(np.mean(depth)), 1), "most": max(depth)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="further text, .xz or plain; without it, sizes beyond are left out")
    args = parser.parse_args()
    model = LlamaModel(DEMO, LoadOptions())
    texts = [model.tokenize(text, special=False) for text in raw_texts(args.text)]
    model.close()
    n_tokens = sum(map(len, texts)) - N_LOOKS
    results = []
    for n in SIZES:
        if n > n_tokens:
            continue
        known = first(texts, n)
        following = [token for text in texts[len(known) :] for token in text][:N_LOOKS]
        results.append({"text": "language", **measure(known, following, n)})
        print(json.dumps(results[-1]), flush=True)
    n = SIZES[1]
    worst = {
        "one token over and over": [[5] * n],
        "a passage of 100 over and over": [list(range(100)) * (n // 100)],
        "two tokens at random": [np.random.default_rng(0).integers(0, 2, n).tolist()],
        "tokens at random": [np.random.default_rng(0).integers(0, 150_000, n).tolist()],
    }
    for name, made in worst.items():
        results.append({"text": name, **measure(made, made[0][:N_LOOKS], n)})
        print(json.dumps(results[-1]), flush=True)
    record.write("suffix", {"n_children": N_CHILDREN, "most_counted": MOST_COUNTED, "results": results})


if __name__ == "__main__":
    main()

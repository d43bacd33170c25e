"""Time to first token beside llama-server: cold prompts of several lengths, and a new question behind a prefix of 1,000
tokens that both sides have read before.

Both sides are asked in turn, in an order that changes; ratios are paired by prompt. edgespec is timed in this process
and llama-server by its own clock (prompt_ms), so HTTP costs it nothing; what its client waits is told beside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from contenders import ENV, N_CTX, open_ours, server_settings
from prompts import DATA
from server import Server

from edgespec.bench.figures import paired_median
from edgespec.types import Sampling, Step
from edgespec.workbench import Workbench

sys.path.insert(0, str(record.ROOT))
from tools import llama_server

METHODS = {"plain": "plain", "chain@6": "draft 5"}
LENGTHS = (16, 64, 256, 768)
N_PREFIX, N_QUESTION = 1000, 24


def text(bench: Workbench, n: int, start: int) -> list[int]:
    """n tokens of recorded answers, from a place of its own for each start."""
    lines = (DATA / "answers_recorded.jsonl").read_text().splitlines()
    whole = " ".join(json.loads(line)["answers"][0] for line in (*lines[start % len(lines) :], *lines))
    return bench.target.tokenize(whole.encode(), special=False)[:n]


def ours(bench: Workbench, method: str, prompt: Sequence[int], cold: bool) -> float:
    """Milliseconds to the first token; closing the answer there."""
    bench.use(method)
    engine = bench.assistant.engine
    if cold:
        engine.forget()
    start = time.perf_counter()
    for event in engine.generate(prompt, Sampling(temperature=0), 8, end_ids=()):
        if isinstance(event, Step):
            return 1e3 * (time.perf_counter() - start)
    raise AssertionError("no token came")


def theirs(server: Server, prompt: Sequence[int], cold: bool) -> tuple[float, float]:
    """Its own prompt_ms, and what the client waited."""
    reply = server.complete(prompt, 2, 0.0, 0, cache_prompt=not cold, stream=True)
    if reply.ttft_ms is None:
        raise AssertionError("a streamed reply had no first token")
    return reply.prompt_ms, reply.ttft_ms


def compare(bench: Workbench, server: Server, method: str, prompts: Sequence[list[int]], cold: bool) -> dict[str, Any]:
    """Ratios of edgespec's time to llama-server's; not cold: the first prompt only fills both caches."""
    rows = []
    for i, prompt in enumerate(prompts):
        if i % 2:
            mine = ours(bench, method, prompt, cold)
            other, waited = theirs(server, prompt, cold)
        else:
            other, waited = theirs(server, prompt, cold)
            mine = ours(bench, method, prompt, cold)
        rows.append((mine, other, waited))
    rows = rows if cold else rows[1:]
    return {
        "edgespec_ms": float(np.median([r[0] for r in rows])),
        "llama_server_ms": float(np.median([r[1] for r in rows])),
        "llama_server_client_ms": float(np.median([r[2] for r in rows])),
        "over_llama_server": paired_median([r[0] / r[1] for r in rows]),
        "over_llama_server_client": paired_median([r[0] / r[2] for r in rows]),
        "raw_ms": [[round(x, 2) for x in r] for r in rows],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True, help="result is written to results/peers_ttft-NAME.json")
    parser.add_argument("--server", type=Path)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    program = args.server or llama_server.find()
    if program is None or not program.exists():
        print("peers_ttft: there is no llama-server; `make llama-server` builds it", file=sys.stderr)
        return 1
    log = record.ROOT / ".cache" / "llama-server" / "ttft.log"
    found: dict[str, Any] = {}
    with open_ours(args.model, ",".join(METHODS), args.threads) as (bench, _):
        for method, spec in METHODS.items():
            with Server(
                program,
                args.model,
                server_settings(spec, args.threads),
                n_threads=args.threads,
                n_ctx=N_CTX,
                log=log,
                env=ENV,
            ) as server:
                found[method] = _all(bench, server, method, args.prompts)
    record.write(f"peers_ttft-{args.name}", {"prompts": args.prompts, "threads": args.threads, "results": found})
    return 0


def _all(bench: Workbench, server: Server, method: str, n_prompts: int) -> dict[str, Any]:
    found = {}
    for n in LENGTHS:
        count = max(3, n_prompts // (2 if n > 256 else 1))
        prompts = [text(bench, n, start) for start in range(count)]
        found[f"cold, {n} tokens"] = compare(bench, server, method, prompts, cold=True)
    prefix = text(bench, N_PREFIX, 17)
    prompts = [[*prefix, *text(bench, N_QUESTION, start)] for start in range(n_prompts + 1)]
    found[f"{N_PREFIX} tokens reused, {N_QUESTION} new"] = compare(bench, server, method, prompts, cold=False)
    for name, row in found.items():
        over = row["over_llama_server"]
        shown = f"{over['ratio']:.3f} ({over['low']:.3f} to {over['high']:.3f})"
        print(f"{method:8} {name:28} {row['edgespec_ms']:8.1f} ms  {shown}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())

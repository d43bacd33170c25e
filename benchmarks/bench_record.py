"""Runs `edgespec bench` and records what it printed, with commit, machine and command, as results/bench-NAME.json.

    python benchmarks/bench_record.py demo -m demo --prompts benchmarks/data/prompts_dev.jsonl --max-tokens 64

Exits as the bench did.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import record


def main() -> int:
    name, *arguments = sys.argv[1:]
    command = [sys.executable, "-m", "edgespec.cli", "bench", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    if not lines:
        return done.returncode
    result: dict[str, Any] = json.loads(lines[-1])
    # The samples of a run are some hundred lines each; what they were made into is kept, and their raw times.
    kept = ("method", "question", "n_tokens", "ttft_ms", "decode_ms")
    result["samples"] = [
        [s[k] if isinstance(s[k], str | int) else round(s[k], 2) for k in kept] for s in result["samples"]
    ]
    result["samples_are"] = list(kept)
    path = record.write(f"bench-{name}", result)
    print(path.relative_to(record.ROOT))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

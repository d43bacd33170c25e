"""The whole lossless bar, recorded: 40 dev prompts by 128 tokens, every shape, KV type and temperature.

Under --exact speculative text must equal plain text token for token; without it the share of greedy tokens that are not
the argmax of one teacher-forced pass is recorded, for plain decoding too. Leaves with 1 where a contract is broken.
"""

from __future__ import annotations

import json
import sys

import record

sys.path.insert(0, str(record.ROOT))
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.types import PLAIN
from tests import test_lossless as law

N_PROMPTS, N_TOKENS = 40, 128


def main() -> None:
    demo, draft = law.DEMO / "demo.gguf", law.DEMO / "demo-draft.gguf"
    pair = law.Pair(LlamaModel(demo, LoadOptions()), LlamaModel(draft, LoadOptions()))
    asked = law.prompts(pair, N_PROMPTS)
    end_ids = pair.target.end_ids
    exact, forced = [], []
    for kv in ("f16", "q8_0"):
        for temperature in (0.0, 0.8):
            plain = law.answers(law.demo_engine(pair, PLAIN, kv, exact=True), asked, N_TOKENS, temperature, end_ids)
            for shape, choice in law.SHAPES.items():
                engine = law.demo_engine(pair, choice, kv, exact=True)
                found = law.answers(engine, asked, N_TOKENS, temperature, end_ids)
                same = sum(a == b for a, b in zip(found, plain, strict=True))
                line = {"kv": kv, "temperature": temperature, "shape": shape, "prompts": len(asked), "same": same}
                exact.append({**line, "tokens": sum(map(len, plain))})
                print(json.dumps(exact[-1]), flush=True)
    for shape, choice in {"plain": PLAIN, **law.SHAPES}.items():
        gaps = law.gaps_of(pair, choice, asked, N_TOKENS)
        line = {"shape": shape, "tokens": len(gaps), "not_argmax_share": float((gaps > 0).mean())}
        forced.append({**line, "largest_gap": float(gaps.max()), "kept": not law.contract_violations(gaps)})
        print(json.dumps(forced[-1]), flush=True)
    longest = max(map(len, asked))
    record.write("lossless", {"longest_prompt": longest, "exact": exact, "teacher_forced": forced})
    if any(e["same"] != e["prompts"] for e in exact) or not all(f["kept"] for f in forced):
        raise SystemExit("a contract of docs/exact.md is broken")


if __name__ == "__main__":
    main()

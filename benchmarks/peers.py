"""edgespec beside llama-server and llama_cpp.Llama: same machine, files, prompts, threads, token budgets and samplers.

Settings are screened in heats of a few prompts; llama-server's fastest, the identical chains and some trees then meet
on other prompts. With --theirs the settings that are named meet at once. Within a heat every prompt is answered by
everybody in an order that rotates, and ratios are paired by prompt. Budgets come from our plain answer, cut where it
begins to loop. Exits 1 without llama-server.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
import record
from contenders import Contender, Run, open_library, open_ours, open_peers
from prompts import categories, dev_prompts

from edgespec.bench.figures import paired_median
from edgespec.bench.loops import loop_start

sys.path.insert(0, str(record.ROOT))
from tools import llama_server

TEMPERATURES = (0.0, 0.8)
N_DRAFTED = (2, 3, 4, 6, 8)
CHAINS = tuple(f"chain@{n + 1}" for n in (2, 3, 4, 5, 6, 8))
TREES = ("tree@4", "tree@6", "tree@8", "tree@12")
FINAL = ("auto", "chain@6", "tree@4", "tree@6", "tree@8")
SCREENED_LONGEST = 80
PLAIN, OUR_PLAIN = "llama-server plain", "edgespec plain"
HEATS: dict[str, tuple[str, ...]] = {
    "drafts": tuple(f"draft {n}" for n in (*N_DRAFTED, 5)),
    "drafts, p-min 0.5": tuple(f"draft {n} p0.5" for n in (*N_DRAFTED, 5)),
    "n-grams": ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
    "chained": ("ngram-simple + draft 5", "ngram-map-k + draft 5", "ngram-mod + draft 5", "ngram-cache + draft 5"),
}
IDENTICAL = {"edgespec chain@4": "llama-server draft 3", "edgespec chain@6": "llama-server draft 5"}

Answers = dict[str, list[Run]]


def budgets(plain: Contender, prompts: Sequence[Sequence[int]], n_tokens: int, t: float) -> list[tuple[int, int]]:
    """For each prompt how many tokens plain decoding says, and how many of them before its first loop."""
    found = []
    for seed, prompt in enumerate(prompts):
        tokens = plain.answer(prompt, n_tokens, t, seed).tokens
        found.append((len(tokens), loop_start(tokens) or len(tokens)))
    return found


def meet(
    contenders: Mapping[str, Contender], prompts: Sequence[Sequence[int]], n_kept: Sequence[int], t: float
) -> Answers:
    """Everybody's answers, prompt by prompt, in an order that rotates."""
    names = list(contenders)
    found: Answers = {name: [] for name in names}
    for i, (prompt, n) in enumerate(zip(prompts, n_kept, strict=True)):
        first = i % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(contenders[name].answer(prompt, n, t, seed=i))
        print(".", end="", file=sys.stderr, flush=True)
    return found


def rate(run: Run) -> float:
    """Tokens a millisecond after the first; 0 where all came at once."""
    return (len(run.tokens) - 1) / run.decode_ms if run.decode_ms > 0 else 0.0


def whole(run: Run) -> float:
    """Tokens a millisecond of the whole answer, cold prompt and all."""
    return len(run.tokens) / (run.ttft_ms + run.decode_ms)


def ratio(runs: Sequence[Run], others: Sequence[Run], of: Callable[[Run], float] = rate) -> dict[str, float] | None:
    """Tokens a second over the others', over the prompts where both have such a rate."""
    pairs = [(of(a), of(b)) for a, b in zip(runs, others, strict=True)]
    kept = [a / b for a, b in pairs if a and b]
    return paired_median(kept) if kept else None


def lines(answers: Answers, t: float) -> dict[str, Any]:
    """A row of the table for each contender."""
    return {name: _line(answers, name, t) for name in answers}


def _line(answers: Answers, name: str, t: float) -> dict[str, Any]:
    runs = answers[name]
    n, ms = sum(len(r.tokens) - 1 for r in runs if r.decode_ms > 0), sum(r.decode_ms for r in runs)
    passes = [r.n_passes for r in runs]
    n_passes = sum(p for p in passes if p is not None) if None not in passes else None
    splits = [r.split for r in runs if r.split]
    same = [a.tokens == b.tokens for a, b in zip(runs, answers[OUR_PLAIN], strict=True)]
    return {
        "tokens_per_second": 1e3 * n / ms if ms else None,
        "over_llama_server_plain": ratio(runs, answers[PLAIN]) if PLAIN in answers else None,
        "over_edgespec_plain": ratio(runs, answers[OUR_PLAIN]),
        "whole_answer_over_edgespec_plain": ratio(runs, answers[OUR_PLAIN], whole),
        "ttft_ms": float(np.median([r.ttft_ms for r in runs])),
        "tokens_per_pass": n / n_passes if n_passes else None,
        "ms_per_pass": ms / n_passes if n_passes else None,
        "split_of_time": (np.sum(splits, axis=0) / ms).round(4).tolist() if splits else None,
        "same_text_as_plain": f"{sum(same)} of {len(same)}" if t == 0 else None,
        "raw": [[len(r.tokens), round(r.ttft_ms, 1), round(r.decode_ms, 1), r.n_passes] for r in runs],
    }


def screen(model: Path, server: Path | None, n_prompts: int, n_tokens: int, n_threads: int) -> dict[str, Any]:
    """{heat: {temperature: rows}}; every heat has both plain contenders in it."""
    found: dict[str, Any] = {}
    ours = ",".join((*CHAINS, *TREES))
    for heat in (*HEATS, "edgespec", "llama_cpp.Llama"):
        if heat in HEATS and server is None:
            continue
        with ExitStack() as stack:
            methods = ours if heat == "edgespec" else "plain"
            bench, own = stack.enter_context(open_ours(model, methods, n_threads))
            peers = stack.enter_context(open_peers(server, model, ("plain", *HEATS.get(heat, ())), n_threads))
            library = stack.enter_context(open_library(model, n_threads)) if heat == "llama_cpp.Llama" else {}
            prompts = dev_prompts(bench.target, n_prompts, longest=SCREENED_LONGEST)
            found[heat] = _held({**own, **peers, **library}, prompts, n_tokens)
    return found


def _held(contenders: Mapping[str, Contender], prompts: Sequence[list[int]], n_tokens: int) -> dict[str, Any]:
    rows = {}
    for t in TEMPERATURES:
        kept = [kept for _, kept in budgets(contenders[OUR_PLAIN], prompts, n_tokens, t)]
        rows[str(t)] = lines(meet(contenders, prompts, kept, t), t)
        _print_table(rows[str(t)], f"temperature {t}")
    return rows


def fastest(rows: Mapping[str, Any], side: str) -> list[str]:
    """The settings of a side, fastest first, by their ratio to llama-server's plain run of the same heat (to our own
    where there is no llama-server)."""
    over = {n: r["over_llama_server_plain"] or r["over_edgespec_plain"] for n, r in rows.items() if n.startswith(side)}
    return sorted((n for n in over if over[n]), key=lambda n: -over[n]["ratio"])


def finalists(screened: dict[str, Any], t: float, ours: Sequence[str] = FINAL) -> list[str]:
    """Ours, llama-server's two fastest of the screening, and its identical chains; both plain ones always take part."""
    rows = {n: r for heat in screened.values() for n, r in heat[str(t)].items() if n not in (PLAIN, OUR_PLAIN)}
    theirs = [*fastest(rows, "llama-server")[:2], *IDENTICAL.values()]
    return [*(f"edgespec {name}" for name in ours), *dict.fromkeys(theirs)]


def final(
    model: Path,
    server: Path | None,
    names: Mapping[float, Sequence[str]],
    n_prompts: int,
    n_skip: int,
    n_tokens: int,
    n_threads: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Temperature and verdict as they come: the named ones, on prompts the screening did not see.

    names: by temperature; where they are the same ones, they are opened once.
    """
    alike: dict[tuple[str, ...], list[float]] = {}
    for t, some in names.items():
        alike.setdefault(tuple(some), []).append(t)
    for some, temperatures in alike.items():
        own = ",".join(n.removeprefix("edgespec ") for n in some if n.startswith("edgespec"))
        peers = [n.removeprefix("llama-server ") for n in some if n.startswith("llama-server") and n != PLAIN]
        with (
            open_ours(model, own, n_threads) as (bench, mine),
            open_peers(server, model, ("plain", *peers), n_threads) as theirs,
        ):
            seen = dev_prompts(bench.target, n_skip, longest=SCREENED_LONGEST) if n_skip else []
            prompts = [p for p in dev_prompts(bench.target, n_prompts + n_skip, longest=150) if p not in seen]
            prompts = prompts[:n_prompts]
            kinds = categories(bench.target, prompts)
            for t in temperatures:
                yield str(t), _verdict({**mine, **theirs}, prompts, kinds, n_tokens, t)


def _verdict(
    contenders: Mapping[str, Contender], prompts: Sequence[list[int]], kinds: Sequence[str], n_tokens: int, t: float
) -> dict[str, Any]:
    """Rows, the identical pairs, and the fastest of each side here (each has as many to choose from)."""
    found = budgets(contenders[OUR_PLAIN], prompts, n_tokens, t)
    answers = meet(contenders, prompts, [kept for _, kept in found], t)
    rows = lines(answers, t)
    _print_table(rows, f"final, temperature {t}")
    auto = "edgespec auto" if "edgespec auto" in answers else None
    fixed = {name: row for name, row in rows.items() if name != auto}
    mine, theirs = (next(iter(fastest(fixed, side)), None) for side in ("edgespec", "llama-server"))
    pairs = {f"{a} over {b}": _both(answers, a, b) for a, b in IDENTICAL.items() if {a, b} <= answers.keys()}
    against = _both(answers, mine, theirs) if mine and theirs else None
    alone = _both(answers, auto, theirs) if auto and theirs else None
    told = {
        "identical": pairs,
        "best_edgespec": mine,
        "best_llama_server": theirs,
        "best_over_best": against,
        "auto_over_best": alone,
        "auto_over_best_by_category": {
            kind: _both(answers, auto, theirs, [k == kind for k in kinds]) for kind in sorted(set(kinds))
        }
        if auto and theirs
        else None,
    }
    print(json.dumps(told), file=sys.stderr)
    said = sum(said for said, _ in found)
    return {**told, "rows": rows, "share_cut_as_loops": 1 - sum(kept for _, kept in found) / said}


def _both(answers: Answers, a: str, b: str, taken: Sequence[bool] | None = None) -> dict[str, Any]:
    """One over the other, over all prompts or those taken."""
    some = [list(compress(answers[name], taken or repeat(True))) for name in (a, b)]
    return {"decoding": ratio(*some), "whole_answer": ratio(*some, whole)}


def _print_table(rows: dict[str, Any], title: str) -> None:
    print(f"\n{title}", file=sys.stderr)
    for name, row in rows.items():
        over = row["over_llama_server_plain"] or row["over_edgespec_plain"]
        shown = f"{over['ratio']:.2f} ({over['low']:.2f} to {over['high']:.2f})" if over else "-"
        passes = f"{row['tokens_per_pass']:.2f} a pass of {row['ms_per_pass']:.0f} ms" if row["ms_per_pass"] else ""
        print(f"  {name:36} {row['tokens_per_second'] or 0:6.1f} tokens/s  {shown:22} {passes}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True, help="result is written to results/peers-NAME.json")
    parser.add_argument(
        "--server", type=Path, help="a llama-server to use (default: the one `make llama-server` built)"
    )
    parser.add_argument("--screened", type=Path, help="take the screening from this earlier result")
    parser.add_argument("--ours", default=",".join(FINAL), help="our methods in the final, with commas")
    parser.add_argument("--theirs", help="llama-server's settings in the final, with commas, instead of a screening")
    parser.add_argument("--screen-prompts", type=int, default=4)
    parser.add_argument("--screen-tokens", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    server = args.server or llama_server.find()
    if server is None or not server.is_file():
        print(f"peers: {_missing(args.server)}; the rest runs without it", file=sys.stderr)
        server = None
    if args.theirs:
        screened, args.screen_prompts = {}, 0
    elif args.screened:
        screened = json.loads(args.screened.read_text())["screening"]
    else:
        screened = screen(args.model, server, args.screen_prompts, args.screen_tokens, args.threads)
    ours = args.ours.split(",")
    named = [f"edgespec {n}" for n in ours] + [f"llama-server {n}" for n in (args.theirs or "").split(",") if n]
    names = {t: named if args.theirs else finalists(screened, t, ours) for t in TEMPERATURES}
    counts = {k: getattr(args, k) for k in ("screen_prompts", "screen_tokens", "prompts", "tokens", "threads")}
    finals: dict[str, Any] = {}
    n_skip = args.screen_prompts
    for t, verdict in final(args.model, server, names, args.prompts, n_skip, args.tokens, args.threads):
        finals[t] = verdict  # written at once: a run that is cut short keeps what it has
        path = record.write(f"peers-{args.name}", {**counts, "final": finals, "screening": screened})
    print(json.dumps({"result": str(path.relative_to(record.ROOT)), "llama_server": server is not None}))
    return 0 if server else 1


def _missing(asked: Path | None) -> str:
    if asked is not None:
        return f"there is no llama-server at {asked}"
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "llama-server is missing, and so is a C++ compiler to build it: run `sudo apt install gcc g++ make`"
    return "llama-server is missing; `make llama-server` builds it, or name one with --server PATH"


if __name__ == "__main__":
    sys.exit(main())

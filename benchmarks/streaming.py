"""A model larger than memory, read from disk in every pass: plain, trees of K rows, auto, llama-server's chains.

    python benchmarks/streaming.py .cache/models/demo-1b-q4_0.gguf            # an hour or two

Every variant is a process of its own in a control group whose memory limit is below the file's size, with weights
mapped as they are (no rearranged copy) and, in the first of two regimes, the disk throttled to the ratio of transfer to
compute of a consumer's graphics card. The file is a copy of this script's, so that nobody else's pages serve it, and is
dropped from memory before each process. Variants take turns; ratios are paired by prompt and repeat.
Skipped with a message where control groups cannot be had. Not covered: reading prompts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cgroups
import record
from contenders import DRAFT, ENV, N_CTX, Peer, answered, server_settings
from prompts import dev_prompts
from server import Server

from edgespec.assemble import open_workbench
from edgespec.memory.sizes import MIB
from edgespec.settings import Settings
from tools import llama_server

PLACE = record.ROOT / ".cache" / "streaming"
# Issue 7: 150 MB/s is to two cores what a consumer's bus is to its graphics card.
THROTTLE = 150_000_000
# SpecExec (arXiv 2406.02532), the authors' README: tokens a pass by K, another pair of models.
PAPER = {"128": 6.7, "256": 7.7, "512": 8.0}


@dataclass(frozen=True)
class Job:
    """What a child does: answers the prompts by one variant ("plain", "auto", "K 64") and prints a line of JSON."""

    model: str
    variant: str
    temperature: float
    n_prompts: int
    n_tokens: int
    n_threads: int
    seed: int


def settings(job: Job) -> Settings:
    base = Settings(model=job.model, draft=str(DRAFT), threads=job.n_threads, context=N_CTX, remember=False)
    if job.variant == "plain":
        return replace(base, draft=None, method="plain")
    if job.variant == "auto":
        return replace(base, method="auto")
    return replace(base, method="model", shape="tree", nodes=int(job.variant.split()[1]))


def child(job: Job) -> dict[str, Any]:
    """The answers, and how the plan says they came about."""
    with open_workbench({job.variant: settings(job)}) as bench:
        prompts = dev_prompts(bench.target, job.n_prompts, longest=150)
        lines = {line.line: line.value for line in bench.assistant.plan}
        runs = [answered(bench, p, job.n_tokens, job.temperature, job.seed + i) for i, p in enumerate(prompts)]
    return {"plan": lines, "runs": [asdict(run) for run in runs]}


@dataclass(frozen=True)
class Place:
    """Where processes run: limits in bytes and bytes a second; None: the disk as it is."""

    limit_bytes: int
    throttle: int | None

    @contextlib.contextmanager
    def group(self, model: Path) -> Iterator[cgroups.Group]:
        """A fresh group, nothing of the model in memory."""
        with open(model, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with contextlib.ExitStack() as stack:
            group = stack.enter_context(cgroups.new_group(self.limit_bytes, "edgespec-streaming"))
            if self.throttle:
                group = stack.enter_context(cgroups.throttled(group, model, self.throttle))
            yield group

    @property
    def name(self) -> str:
        return "throttled" if self.throttle else "unthrottled"


def ours(job: Job, place: Place, nice: Sequence[str]) -> dict[str, Any]:
    """A child's line; it learns what passes take once a regime. Raises SystemExit where it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(record.ROOT),
        "EDGESPEC_CACHE_DIR": str(PLACE / f"calibration-{place.name}"),
        "EDGESPEC_DATA_DIR": tempfile.mkdtemp(dir=PLACE),  # what one variant learnt is not another's plan
    }
    command = [*nice, sys.executable, __file__, "--child", json.dumps(asdict(job))]
    with place.group(Path(job.model)) as group:
        done = subprocess.run(group.command(command), env=environment, stdout=subprocess.PIPE, text=True)
        memory = {"n_limited": group.n_limited, "n_killed": group.n_killed, "peak_bytes": group.peak_bytes}
    if done.returncode:
        raise SystemExit(f"{job.variant} ended with status {done.returncode}")
    return {**json.loads(done.stdout.splitlines()[-1]), "memory": memory}


def chain(n_draft: int, job: Job, place: Place, program: Path, prompts: list[list[int]], nice: Sequence[str]) -> Any:
    """llama-server drafting chains in the same regime: mapped weights, no rearranged copy."""
    spec = f"draft {n_draft}"
    with place.group(Path(job.model)) as group:
        args = [*server_settings(spec, job.n_threads), "--no-repack"]
        command, log = group.command([*nice, str(program)]), PLACE / f"server-{n_draft}.log"
        threads = job.n_threads
        with Server(
            command, Path(job.model), args, n_threads=threads, n_ctx=N_CTX, log=log, env=ENV, ready_s=600
        ) as server:
            peer = Peer(server)
            runs = [peer.answer(p, job.n_tokens, job.temperature, job.seed + i) for i, p in enumerate(prompts)]
        memory = {"n_limited": group.n_limited, "n_killed": group.n_killed, "peak_bytes": group.peak_bytes}
    return {"runs": [asdict(run) for run in runs], "memory": memory}


def figures(runs: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a variant's answers, and over plain's of the same prompts and repeats."""
    later = [run["n_later"] for run in runs]
    passes, ms = sum(run["n_passes"] for run in runs), sum(run["decode_ms"] for run in runs)
    pairs = [
        (p["decode_ms"] / p["n_later"], r["decode_ms"] / r["n_later"])
        for p, r in zip(plain, runs, strict=True)
        if p["n_later"] and r["n_later"]
    ]
    return {
        "tokens_per_pass": sum(later) / max(passes, 1),
        "tokens_per_s": 1e3 * sum(later) / ms if ms else 0.0,
        "ms_per_round": ms / max(passes, 1),
        "rows_per_pass": sum(run["n_rows"] for run in runs) / max(passes, 1) if runs[0]["n_rows"] else None,
        "draft_ms_per_round": sum(run["split"][1] for run in runs) / max(passes, 1) if runs[0]["split"] else None,
        "over_plain": record.paired_median([a / b for a, b in pairs]) if pairs else None,
        "same_text_as_plain": sum(r["tokens"] == p["tokens"] for r, p in zip(runs, plain, strict=True)),
        "n": len(runs),
    }


def counted(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With the tokens that the time is of: all but the first, which the pass that reads the prompt says alone."""
    return [{**run, "n_later": len(run["tokens"]) - 1, "tokens": list(run["tokens"])} for run in runs]


def compared(variants: Mapping[str, dict[str, Any]], answers: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What issue 7 asks: auto beside its tokens a pass, the best fixed K and the best chain."""
    auto, fixed = variants.get("auto"), {k: v for k, v in variants.items() if k.startswith("K ")}
    chains = {k: v for k, v in variants.items() if k.startswith("llama-server")}
    if auto is None or not auto["over_plain"]:
        return {}
    found: dict[str, Any] = {"speedup_over_tokens_per_pass": auto["over_plain"]["ratio"] / auto["tokens_per_pass"]}
    for name, others in (("best_fixed", fixed), ("best_chain", chains)):
        if others:
            best = max(others, key=lambda k: others[k]["tokens_per_s"])
            ratios = [
                (b["decode_ms"] / b["n_later"]) / (a["decode_ms"] / a["n_later"])
                for a, b in zip(answers["auto"], answers[best], strict=True)
                if a["n_later"] and b["n_later"]
            ]
            found[name] = {"which": best, "auto_over_it": record.paired_median(ratios)}
    return found


def regime(place: Place, model: Path, args: argparse.Namespace, prompts: list[list[int]]) -> dict[str, Any]:
    """Every variant at every temperature in one place, in an order that rotates from repeat to repeat."""
    nice = args.prefix.split()
    program = None if args.no_server else llama_server.find()
    names = ["plain", *(f"K {k}" for k in args.rows), "auto"]
    names += [f"llama-server draft {n}" for n in args.chains] if program else []
    first = Job(str(model), "auto", 0.0, 1, 1, args.threads, 0)
    found: dict[str, Any] = {"plan": ours(first, place, nice)["plan"]}  # times its passes, once
    for temperature in args.temperatures:
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        memory: dict[str, Any] = {}
        for repeat in range(args.repeats):
            at = repeat % len(names)
            for name in [*names[at:], *names[:at]]:
                job = replace(
                    first,
                    variant=name,
                    temperature=temperature,
                    n_prompts=args.prompts,
                    n_tokens=args.tokens,
                    seed=100 * repeat,
                )
                if name.startswith("llama-server"):
                    assert program is not None
                    told = chain(int(name.split()[-1]), job, place, program, prompts, nice)
                else:
                    told = ours(job, place, nice)
                answers[name] += counted(told["runs"])
                memory[name] = {**told["memory"], "plan": told.get("plan", {}).get("streaming")}
                print(place.name, temperature, name, figures(answers[name], answers[name]), flush=True)
        variants = {n: {**figures(answers[n], answers["plain"]), **memory[n]} for n in names}
        found[f"temperature {temperature:g}"] = {"variants": variants, **compared(variants, answers)}
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--limit", type=int, default=420, help="MiB of memory")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=[16, 32, 64, 128, 256])
    parser.add_argument("--chains", type=int, nargs="*", default=[4, 8, 16, 32], help="--spec-draft-n-max")
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 0.8])
    parser.add_argument("--regimes", nargs="*", default=["throttled", "unthrottled"])
    parser.add_argument("--no-server", action="store_true")
    parser.add_argument("--prefix", default="", help="words in front of every measured program")
    parser.add_argument("--name", default="streaming", help="results/NAME.json")
    parser.add_argument("--dry", action="store_true", help="print what was found and write nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.child:
        print(json.dumps(child(Job(**json.loads(args.child)))))
        return
    if why := cgroups.unavailable():
        print(f"skipped: {why}")
        return
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    if not args.no_server and llama_server.find() is None:
        print("no llama-server is built here, so there are no chains to compare with; `make llama-server` builds it")
    model, start = PLACE / args.model.name, time.perf_counter()
    shutil.copyfile(args.model, model)
    with open(model, "rb") as file:
        os.fsync(file.fileno())
    head = {
        "model": args.model.name,
        "file_bytes": model.stat().st_size,
        "limit_bytes": args.limit * MIB,
        "throttle_bytes_per_s": THROTTLE,
        "paper_tokens_per_pass": PAPER,
        **{name: getattr(args, name) for name in ("prompts", "tokens", "repeats", "threads")},
    }
    try:
        from edgespec.backends.llama_cpp.load import LoadOptions
        from edgespec.backends.llama_cpp.model import LlamaModel

        draft = LlamaModel(DRAFT, LoadOptions())  # of the same vocabulary
        prompts = dev_prompts(draft, args.prompts, longest=150)
        draft.close()
        for throttle in [THROTTLE] * ("throttled" in args.regimes) + [None] * ("unthrottled" in args.regimes):
            place = Place(args.limit * MIB, throttle)
            head[place.name] = regime(place, model, args, prompts)
            if not args.dry:
                record.write(args.name, {**head, "seconds": time.perf_counter() - start})
    except cgroups.Unavailable as error:
        print(f"skipped: {error}")
    finally:
        model.unlink()
    if args.dry:
        print(json.dumps(head, indent=1))


if __name__ == "__main__":
    main()

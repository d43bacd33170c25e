"""Those who answer in a peers run, all alike from outside: token ids in, tokens and their times out.

Prompts are cold. Decoding is timed from the first tokens to the last, as serving benchmarks do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import record
from server import Server

from edgespec.assemble import open_workbench
from edgespec.bench.methods import parse_methods
from edgespec.settings import Settings
from edgespec.types import Sampling, Step
from edgespec.workbench import Workbench

N_CTX = 2048
DRAFT = record.ROOT / "edgespec" / "demo" / "demo-draft.gguf"
# What edgespec does for itself (backends/llama_cpp: runtime.py, pages.py): the same waiting and pages for everybody.
ENV = {"GOMP_SPINCOUNT": "3000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass(frozen=True)
class Run:
    """One answer to a cold prompt, as its reader sees it.

    decode_ms  from the first tokens to the last, in n_passes (None: not known)
    split      milliseconds of target, draft and the rest in that time, where the contender tells them
    n_rows     rows of those passes, where it tells them
    """

    tokens: tuple[int, ...]
    ttft_ms: float
    decode_ms: float
    n_passes: int | None
    split: tuple[float, float, float] | None = None
    n_rows: int | None = None


class Contender(Protocol):
    def answer(self, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Run: ...


class Ours:
    """One method of a workbench that the others share."""

    def __init__(self, bench: Workbench, method: str) -> None:
        self._bench, self._method = bench, method

    def answer(self, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Run:
        self._bench.use(self._method)
        return answered(self._bench, prompt, n_tokens, temperature, seed)


def answered(bench: Workbench, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Run:
    """By the method in use, which goes on learning."""
    bench.assistant.engine.forget()
    sampling = Sampling(temperature=temperature, seed=seed)
    events = bench.assistant.engine.generate(prompt, sampling, n_tokens, end_ids=bench.target.end_ids)
    steps: list[Step] = []
    start, first, end = time.perf_counter(), 0.0, 0.0
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
            end = time.perf_counter()
            first = first or end
    ms, rest = 1e3 * (end - first), steps[1:]
    target, draft = sum(s.target_ms for s in rest), sum(s.draft_ms for s in rest)
    tokens = tuple(t for s in steps for t in s.tokens)
    n_rows = sum(s.n_drafted + 1 for s in rest)
    return Run(tokens, 1e3 * (first - start), ms, len(rest), (target, draft, ms - target - draft), n_rows)


class Peer:
    """A llama-server; its own clock, so HTTP costs it nothing."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def answer(self, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Run:
        reply = self._server.complete(prompt, n_tokens, temperature, seed)
        n_passes = reply.predicted_n - 1 - reply.draft_n_accepted
        return Run(reply.tokens, reply.prompt_ms, reply.predicted_ms, n_passes)


class Library:
    """llama_cpp.Llama as its users call it."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama

    def answer(self, prompt: Sequence[int], n_tokens: int, temperature: float, seed: int) -> Run:
        self._llama.set_seed(seed)
        tokens: list[int] = []
        self._llama.reset()
        start, first, end = time.perf_counter(), 0.0, 0.0
        settings = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temp": temperature, "repeat_penalty": 1.0}
        for token in self._llama.generate(list(prompt), **settings):
            tokens.append(token)
            end = time.perf_counter()
            first = first or end
            if len(tokens) >= n_tokens or token == self._llama.token_eos():
                break
        return Run(tuple(tokens), 1e3 * (first - start), 1e3 * (end - first), None)


def server_settings(spec: str, n_threads: int) -> list[str]:
    """llama-server's arguments for a name such as "plain", "draft 5", "draft 5 p0.5", "ngram-mod",
    "ngram-map-k + draft 5"."""
    args, types = [], []
    for part in spec.split(" + "):
        words = part.split()
        if words[0] == "draft":
            types.append("draft-simple")
            args += ["-md", str(DRAFT), "--spec-draft-n-max", words[1], "-td", str(n_threads)]
            args += ["--spec-draft-p-min", words[2].removeprefix("p") if len(words) > 2 else "0"]
        elif words[0] != "plain":
            types.append(words[0])
    return [*args, "--spec-type", ",".join(types)] if types else []


@contextmanager
def open_ours(model: Path, methods: str, n_threads: int) -> Iterator[tuple[Workbench, Mapping[str, Contender]]]:
    """A workbench and its methods by the name they have in a table."""
    settings = Settings(model=str(model), draft=str(DRAFT), context=N_CTX, threads=n_threads)
    with open_workbench(parse_methods(methods, settings)) as bench:
        yield bench, {f"edgespec {name}": Ours(bench, name) for name in bench.choices}


@contextmanager
def open_peers(
    program: Path | None, model: Path, specs: Sequence[str], n_threads: int
) -> Iterator[Mapping[str, Contender]]:
    """One running llama-server for each spec; none where there is no program."""
    logs = record.ROOT / ".cache" / "llama-server"
    with ExitStack() as stack:
        found = {}
        for spec in specs if program else ():
            log = logs / f"{spec.replace(' ', '-')}.log"
            server = Server(
                program, model, server_settings(spec, n_threads), n_threads=n_threads, n_ctx=N_CTX, log=log, env=ENV
            )
            found[f"llama-server {spec}"] = Peer(stack.enter_context(server))
        yield found


@contextmanager
def open_library(model: Path, n_threads: int) -> Iterator[Mapping[str, Contender]]:
    """llama_cpp.Llama, plain and with its prompt lookup."""
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    found, opened = {}, []
    for name, draft in (("plain", None), ("prompt lookup", LlamaPromptLookupDecoding(num_pred_tokens=2))):
        llama = llama_cpp.Llama(
            str(model),
            n_ctx=N_CTX,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            flash_attn=True,
            n_gpu_layers=-1,  # as the others do where there is a GPU; its own default uses none
            draft_model=draft,
            verbose=False,
        )
        opened.append(llama)
        found[f"llama_cpp.Llama {name}"] = Library(llama)
    try:
        yield found
    finally:
        for llama in opened:
            llama.close()

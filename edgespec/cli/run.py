"""`edgespec run`: one answer, streamed as text or printed as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from edgespec.cli import INTERRUPTED, probe, screen
from edgespec.cli import options as o
from edgespec.errors import AnswerCut, BadSetting
from edgespec.service.messages import Done, Loaded
from edgespec.service.replay import cut_short
from edgespec.service.supervisor import Supervisor
from edgespec.types import Message, Notice, Sampling

# Far beyond any context; without it an endless pipe would fill the memory first.
MAX_INPUT_BYTES = 1 << 26


@o.flat
def run(
    loading: o.Loading,
    answering: o.Answering,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="the question; - or none: standard input")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
    method: o.Method = "auto",
    shape: o.Shape = "auto",
) -> int:
    """Answer one question."""
    sampling, asked = answering.sampling(), loading.settings(method, shape)
    messages = [Message("user", _prompt(prompt))]
    if answering.system:
        messages.insert(0, Message("system", answering.system))
    with Supervisor() as worker:
        loaded, notices = screen.load(worker, asked), list[Notice]()

        def shows(notice: Notice) -> bool:
            notices.append(notice)
            return screen.worth_a_line(notice)

        try:
            done = screen.answer(worker, messages, sampling, answering.max_tokens, show=not as_json, shows=shows)
        except AnswerCut as error:
            if as_json and error.tokens:
                print(json.dumps(failed(error, notices, worker.loaded or loaded, sampling)), flush=True)
            raise
        loaded = worker.loaded or loaded  # a restart had another plan
    if as_json:
        print(json.dumps(result(done, loaded, sampling)))
    if done.answer.finish == "cancelled":
        print("edgespec: stopped; what was said so far is above", file=sys.stderr)
        return INTERRUPTED
    return 0


def _prompt(given: str | None) -> str:
    """The question, from the flag or from standard input; raises BadSetting when empty or not UTF-8."""
    if given is not None and given != "-":
        text = given
    elif given is None and sys.stdin.isatty():
        raise BadSetting('there is no prompt; give one with -p "TEXT" or pipe it in')
    else:
        raw = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        if len(raw) > MAX_INPUT_BYTES:
            raise BadSetting(f"standard input is longer than {MAX_INPUT_BYTES:,} bytes; pipe in less")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSetting(
                f"standard input is not UTF-8 text (byte {error.start} of {len(raw)}); convert it, for example "
                "with iconv -t UTF-8"
            ) from None
    if not text.strip():
        raise BadSetting('the prompt is empty; give one with -p "TEXT" or pipe it in')
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise BadSetting("the prompt is not UTF-8 text; check the terminal's encoding or pipe the text in as UTF-8")
    return text


def result(done: Done, loaded: Loaded, sampling: Sampling) -> dict[str, Any]:
    """The object of docs/design.md section 6; timings bear llama.cpp's names."""
    a = done.answer
    seconds = a.predicted_ms / 1e3
    return {
        "text": a.text,
        "model": loaded.model,
        "finish_reason": a.finish,
        "tokens": list(a.tokens),
        "seed": sampling.seed,
        "timings": {
            "prompt_n": a.prompt_n,
            "prompt_ms": a.prompt_ms,
            "predicted_n": a.n_timed,
            "predicted_ms": a.predicted_ms,
            "predicted_per_second": a.n_timed / seconds if seconds else 0.0,
            "draft_n": a.draft_n,
            "draft_n_accepted": a.draft_n_accepted,
            "cache_n": a.cache_n,
        },
        "speculation": {
            "method": a.method,
            "rounds": a.n_rounds,
            "tokens_per_round": a.n_timed / a.n_rounds if a.n_rounds else 0.0,
            "target_ms": a.target_ms,
            "draft_ms": a.draft_ms,
            "overhead_ms": a.overhead_ms,
            "speedup_vs_plain": None,
            "events": [asdict(notice) for notice in done.notices],
        },
        "memory": _memory(done, loaded),
        "plan": [{"line": p.line, "value": p.value, "reason": p.reason} for p in loaded.plan],
    }


def failed(error: AnswerCut, notices: Sequence[Notice], loaded: Loaded, sampling: Sampling) -> dict[str, Any]:
    """The same object of an answer that failed after it had begun: figures are lost, `error` is the sentence."""
    answer = cut_short(error.text, error.tokens, "error", loaded.method)
    return {**result(Done(0, answer, 0, tuple(notices)), loaded, sampling), "error": str(error)}


def _memory(done: Done, loaded: Loaded) -> dict[str, Any]:
    """As `probe --json` tells it, with what was really taken at the end of the answer."""
    measured = {
        "total_bytes": sum(n_bytes for _, n_bytes in done.growth),
        "by_device": dict(done.growth),
        "rss_bytes": done.rss_bytes,
    }
    told = probe.memory(loaded.memory) if loaded.memory else {"budget_bytes": None, "predicted": {}}
    return {**told, "measured": measured}

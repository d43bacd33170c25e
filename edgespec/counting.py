"""How often tokens come up: in what a model answers, in a text, in what was said here before.

What the target itself says is the best guide to what a drafter will have to say (VocabTrim, arXiv 2506.22694, table 4);
prompts are not counted. Not covered: files of counts (store/counts.py), what is kept by them (gguf/keep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgespec.assemble import open_assistant
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.errors import BadSetting, ContextOverflow
from edgespec.gguf.inspect import inspect
from edgespec.remembering import texts_of
from edgespec.settings import Settings
from edgespec.speculation.drafters.columns import from_named
from edgespec.store import learnt, tables
from edgespec.store.corpus import Corpus
from edgespec.store.counts import Counted
from edgespec.store.registry import Entry, resolve
from edgespec.types import Message, Sampling

Report = Callable[[str, float], None]
# Tokens of an answer that are counted at most, so that a rambling one does not outweigh the others.
MAX_TOKENS = 256


def from_answers(
    settings: Settings,
    prompts: Sequence[Sequence[str]],
    report: Report = lambda _what, _done: None,
    max_tokens: int = MAX_TOKENS,
    sampling: Sampling | None = None,
) -> Counted:
    """Of what the settings' model answers to prompts (the user's turns of a conversation each; seed 0 unless `sampling`
    says another). A conversation too long for the context ends where it is; what is said is not remembered.

    Raises what open_assistant raises, and BadSetting where nothing was answered.
    """
    said: list[int] = []
    n_answers = 0
    how = sampling or Sampling(seed=0)
    with open_assistant(replace(settings, remember=False), report) as assistant:
        n_vocab = inspect(assistant.entry.path).n_vocab
        for i, turns in enumerate(prompts):
            report(f"answering prompts ({len(said)} tokens)", i / len(prompts))
            messages: list[Message] = []
            for turn in turns:
                messages.append(Message("user", turn))
                try:
                    answer = assistant.answer(messages, how, max_tokens)
                except ContextOverflow:
                    break
                said += answer.tokens
                n_answers += 1
                messages.append(Message("assistant", answer.text, answer.tokens))
        name = assistant.entry.name
    if not said:
        raise BadSetting(
            f"{name} answered none of {len(prompts)} prompts, so nothing was counted; give shorter prompts"
        )
    return Counted(_counts(said, n_vocab), f"{n_answers} answers of {name}")


def from_text(entry: Entry, path: Path) -> Counted:
    """Of a text file, or a folder of them, in that model's tokens; raises BadSetting where there is no text."""
    if not path.exists():
        raise BadSetting(f"--text {path} is not there; name a text file or a folder of them")
    corpus = Corpus(path)
    n_vocab = inspect(entry.path).n_vocab
    counts: NDArray[np.int64] = np.zeros(n_vocab, np.int64)
    with ExitStack() as stack:
        model = LlamaModel(entry.path, LoadOptions(extra_buffers=False, n_gpu_layers=0))
        stack.callback(model.close)
        for text in corpus:
            counts += _counts(model.tokenize(text, special=False), n_vocab)
    if not counts.any():
        raise BadSetting(f"--text {path} holds no UTF-8 text, so nothing was counted; name a text file or a folder")
    return Counted(counts, f"{corpus.counts.n_read} texts of {path.name}")


def from_sessions(name: str) -> Counted:
    """Of what was said with that model on this machine before (docs/sources.md), questions and files included.

    Raises BadSetting where nothing was kept.
    """
    entry = resolve(name)
    n_vocab = inspect(entry.path).n_vocab
    found = tables.load(learnt.key(entry.path, None, "said"))
    if not (arrays := texts_of(found.arrays or {})):
        raise BadSetting(
            f"nothing that was said with {entry.name} is kept here; chat with it first, or use --calibrate PROMPTS"
        )
    tokens = from_named(arrays).tokens
    tokens = np.where(tokens < 0, ~tokens, tokens)
    if tokens.max(initial=0) >= n_vocab:
        raise BadSetting(
            f"what was said with {entry.name} names token {tokens.max()} of {n_vocab}; use --calibrate PROMPTS instead"
        )
    return Counted(_counts(tokens, n_vocab), f"{len(tokens)} tokens of conversations with {entry.name}")


def _counts(tokens: Iterable[int], n_vocab: int) -> NDArray[np.int64]:
    return np.bincount(np.fromiter(tokens, np.int64), minlength=n_vocab)

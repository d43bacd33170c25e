"""What earlier sessions left for drafting, and what this one leaves: texts, recycled rows, how far drafts were right.

Also reads the texts that --corpus names into what drafts are copied from. Whatever cannot be used is moved aside or
passed over with a line for the user, never fatal. Not covered: the files (store), what is learnt (drafting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.drafting import N_TOKENS, Drafting
from edgespec.errors import BadSetting
from edgespec.speculation.drafters.automaton import Automaton, from_columns
from edgespec.speculation.drafters.columns import Columns, from_named
from edgespec.store import learnt, tables
from edgespec.store.corpus import Corpus, Counts

# Of the tokens that drafts may be copied from, those that files may take at most.
CORPUS_TOKENS = N_TOKENS // 2
_RECYCLED, _CORPUS = "recycled-", "corpus"

Tokenize = Callable[[bytes], list[int]]


class Remembered:
    """Of one target and drafter.

    warnings  what could not be used or kept, one line each
    """

    def __init__(self, target: Path, draft: Path | None, n_vocab: int) -> None:
        """Raises OSError where a model's file cannot be read."""
        self._control_key = learnt.key(target, draft, "control")
        self._said_key = learnt.key(target, None, "said")
        self._n_vocab = n_vocab
        self.warnings: list[str] = []
        control, damaged = learnt.load_told(self._control_key)
        self._control = control or {}
        if damaged:
            self.warnings.append(damaged)
        found = tables.load(self._said_key)
        if found.warning:
            self.warnings.append(found.warning)
        self._arrays: Mapping[str, Any] = found.arrays or {}
        mark = self._arrays.get(_CORPUS, np.zeros(0, np.uint8))
        self._corpus = bytes(mark.astype(np.uint8)).decode(
            "ascii", "replace"
        )  # in the texts' own file: true of it alone

    def automaton(self) -> Automaton:
        """What was said before; anew where there is nothing that could be used."""
        said = texts_of(self._arrays)
        if not said:
            return Automaton(N_TOKENS)
        try:
            columns = from_named(said)
            kept = from_columns(columns)
            self._check_ids(columns)
        except BadSetting as error:
            self.warnings.append(tables.discard(self._said_key, str(error)))
            self._arrays = {}
            return Automaton(N_TOKENS)
        if kept.n_tokens > 3 * N_TOKENS // 4:  # room for this session, and for files that are read again
            kept, self._corpus = kept.compacted(N_TOKENS // 4, N_TOKENS), ""
        kept.separate()
        return kept

    def _check_ids(self, columns: Columns) -> None:
        """Raises BadSetting: a draft of an id that the model lacks would end in the runtime."""
        tokens = columns.tokens
        most = int(np.where(tokens < 0, ~tokens, tokens).max(initial=0))
        if most >= self._n_vocab:
            raise BadSetting(f"it names token {most} and the model has {self._n_vocab}; what was said is learnt again")

    def teach(self, drafting: Drafting) -> None:
        """Give what was learnt."""
        drafting.take(self._control)
        rows = {name.removeprefix(_RECYCLED): a for name, a in self._arrays.items() if name.startswith(_RECYCLED)}
        if rows and not drafting.recycled.take(rows, self._n_vocab):
            self.warnings.append(tables.discard(self._said_key, "its recycled rows are of another kind"))

    def read(self, corpus: Corpus, automaton: Automaton, tokenize: Tokenize) -> str:
        """Read texts into the automaton, unless these very files are in it; one line about them."""
        mark = corpus.mark()
        if mark == self._corpus and automaton.n_tokens:
            return f"{corpus.path}: as it was read before"
        told = read_corpus(corpus, automaton, tokenize)
        self._corpus = mark
        return told

    def keep(self, drafting: Drafting) -> str | None:
        """Save all of it; a warning where that failed."""
        try:
            said = learnt.save(self._control_key, drafting.learnt())
            recycled = {_RECYCLED + name: a for name, a in drafting.recycled.arrays().items()}
            automaton = drafting.suffix.automaton
            rows = automaton.arrays().named() if automaton.n_tokens else {}
            mark = {_CORPUS: np.frombuffer(self._corpus.encode(), np.uint8)}
            return tables.save(self._said_key, {**rows, **recycled, **mark}) or said
        except (OSError, ValueError) as error:
            return f"what this conversation taught about drafting was not kept: {error}"


def texts_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of texts among what is kept of a target; {} where nothing was said."""
    return {n: a for n, a in arrays.items() if n != _CORPUS and not n.startswith(_RECYCLED)}


def read_corpus(corpus: Corpus, automaton: Automaton, tokenize: Tokenize) -> str:
    """Read texts into the automaton, CORPUS_TOKENS of them at most; one line about what became of the files."""
    n_tokens = 0
    for text in corpus:
        ids = tokenize(text)[: CORPUS_TOKENS - n_tokens]
        automaton.separate()
        automaton.extend(ids)
        n_tokens += len(ids)
        if n_tokens >= CORPUS_TOKENS:
            break
    automaton.separate()
    return _told(corpus.path, corpus.counts, n_tokens)


def _told(path: Path, counts: Counts, n_tokens: int) -> str:
    """What became of the files, in one line."""
    passed = [
        f"{n} {what}"
        for n, what in (
            (counts.n_skipped_binary, "binary"),
            (counts.n_skipped_large, "over 4 MiB"),
            (counts.n_unreadable, "unreadable"),
        )
        if n
    ]
    skipped = f"; passed over: {', '.join(passed)}" if passed else ""
    full = f"; more than {CORPUS_TOKENS} tokens are not taken" if n_tokens >= CORPUS_TOKENS or counts.cut else ""
    return f"{path}: {counts.n_read} texts, {n_tokens} tokens to copy from{skipped}{full}"

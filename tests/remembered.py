"""Sessions that begin with what an earlier one kept, for the tests of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgespec.drafting import Drafting
from edgespec.remembering import Remembered
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.tree import single
from edgespec.types import Choice, Rows, Sampling, Verdict

N_VOCAB = 256
TEXT = np.array([1, 2, 3, 4, 5, 6, 7], np.int32)


def started(target: Path, n_vocab: int = N_VOCAB) -> tuple[Remembered, Drafting]:
    """A session that begins with what is kept."""
    remembered = Remembered(target, None, n_vocab)
    made = Drafting(Settings(), lambda: [b"x"] * n_vocab, Acceptance(), None, remembered.automaton())
    remembered.teach(made)
    return remembered, made


def talked(made: Drafting, text: np.ndarray = TEXT) -> None:
    """A round of a conversation, from which all there is learns."""
    lookup = made.without_model()["lookup"]
    rows = np.zeros((1, N_VOCAB), np.float32)
    rows[0, 99] = 9.0
    made.recycled.learn(text, single(int(text[-1])), Rows(rows))
    lookup.draft(text, Choice("lookup", 4, 3, 2), Process(Sampling(temperature=0)), Noise(1))
    lookup.commit(np.append(text, 8).astype(np.int32), Verdict((0,), (8,), None))


def tokenize(text: bytes) -> list[int]:
    return list(text)


def files(data: Path, kind: str) -> list[Path]:
    return sorted(data.glob(f"*{kind}"))

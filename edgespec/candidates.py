"""The files that a plan may be made of: whether one can answer, draft or be copied from, and what the user insists on.

Not covered: finding them by name (store/registry.py), what they take (memory), opening them (loading.py).
"""

from __future__ import annotations

from pathlib import Path

from edgespec.errors import BadSetting, DrafterUnusable, ModelUnusable
from edgespec.memory.source import Source, read_source
from edgespec.settings import BY_MODEL, Settings
from edgespec.store.corpus import Corpus
from edgespec.store.registry import Entry, resolve


def insists(asked: Settings) -> bool:
    """Whether a drafter that cannot draft is an error, not one to be passed over."""
    return asked.draft not in (None, "none") or asked.method in BY_MODEL


def target_source(entry: Entry) -> Source:
    """Raises what reading the file raises, and ModelUnusable for a trimmed drafter."""
    source = read_source(entry.name, entry.path)
    if source.shape.n_whole_vocab is not None:
        raise ModelUnusable(
            f"{entry.name} is a trimmed drafter: it can say {source.shape.n_vocab} of {source.shape.n_whole_vocab} "
            "tokens, so it drafts for a model and cannot answer alone; name it with -d, and the model with -m"
        )
    return source


def draft_source(asked: Settings, name: str) -> Source:
    """The drafter's file; raises an EdgespecError for one that cannot draft."""
    found = resolve(name)
    source = read_source(name, found.path, found.mask_token_id)
    if asked.method == "parallel" and source.mask_token_id is None:
        raise DrafterUnusable(
            f"{name} cannot draft in parallel: neither its file (tokenizer.ggml.mask_token_id) nor models.toml "
            "(mask_token_id) names a mask that it was taught to fill in; use --method model, or another drafter"
        )
    if source.shape.recurrent:
        raise DrafterUnusable(f"{name} has a recurrent state, which cannot drop rejected tokens; use another")
    return source


def corpus_of(asked: Settings, sources: bool) -> Corpus | None:
    """The texts of --corpus; sources: whether anything could copy from them. Raises BadSetting for a path that is not
    there, or where nothing could."""
    if asked.corpus is None:
        return None
    if not asked.corpus.strip():
        raise BadSetting("--corpus names nothing; name a text file or a folder of them")
    if not sources:
        raise BadSetting(
            "--corpus is there to copy drafts from, and nothing here does that; use --method auto or lookup"
        )
    return Corpus(Path(asked.corpus).expanduser())

"""Opening what a plan names: which drafter may draft, and that nothing stays in memory that nobody asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edgespec import loading
from edgespec.backends.fake import FakeModel
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.trimmed import TrimmedHead
from edgespec.drafting import Drafting
from edgespec.errors import Cancelled, DoesNotFit, DrafterUnusable, ModelUnusable
from edgespec.gguf.keep import Kept, always_kept
from edgespec.gguf.trim import trim
from edgespec.loading import Drafters, Loader, build, check_vocabulary, placed
from edgespec.memory.configuration import DraftModel, Placement
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.sampling import Noise, Process
from edgespec.types import Choice, ContextSpec, Sampling, Verdict
from tests.cut import DRAFT, cut, vocabulary_of

WORDS = (b"a", b"b", b"c", b"d")
HERE, THERE = Placement(), Placement(3)
SPEC = ContextSpec(64)


def drafting() -> Drafting:
    return Drafting(Settings(), lambda: list(WORDS), Acceptance(), None)


def model(*pieces: bytes) -> LlamaModel:
    shared: list[object] = []
    model = SimpleNamespace(n_vocab=len(pieces), pieces=lambda: pieces, shared=shared, share_pieces=shared.append)
    return cast(LlamaModel, model)


class Weights:
    """Weights that a file's name says all about; `alive` are those not yet freed."""

    alive: list[Weights]

    def __init__(
        self, path: Path, options: LoadOptions, on_progress: Callable[[float], bool], head: TrimmedHead | None = None
    ) -> None:
        if path.stem == "broken":
            raise ModelUnusable("the runtime could not load broken.gguf")
        if not on_progress(0.5):
            raise Cancelled("stopped while loading the model")
        self.words = WORDS if path.stem == "good" else WORDS[:-1]
        self.n_vocab, self.options, self.head = len(self.words), options, head
        Weights.alive.append(self)

    def share_pieces(self, other: object) -> None:
        """They are equal."""

    def pieces(self) -> tuple[bytes, ...]:
        return self.words

    def open(self, spec: ContextSpec) -> Any:
        if spec.n_ctx > 64:
            raise DoesNotFit("no room")
        return SimpleNamespace(spec=spec)

    def close(self) -> None:
        Weights.alive.remove(self)


@pytest.fixture
def drafters(monkeypatch: pytest.MonkeyPatch) -> Drafters:
    monkeypatch.setattr(loading, "LlamaModel", Weights)
    Weights.alive = []
    whole = SimpleNamespace(n_whole_vocab=None)
    names = ("good", "other", "broken")
    sources = {name: cast(Any, SimpleNamespace(path=Path(f"{name}.gguf"), shape=whole)) for name in names}
    loader = Loader(LoadOptions(extra_buffers=False), lambda _what, _done: None, lambda: False)
    return Drafters(loader, sources, model(*WORDS), "target")


# --- vocabularies


def test_a_drafter_of_the_same_words_may_draft() -> None:
    """Fails when models of one family are taken for strangers, or the same words are kept in memory twice."""
    small, large = model(*WORDS), model(*WORDS)
    check_vocabulary("small", small, large, "large")
    assert cast(Any, small).shared == [large]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (WORDS[:3], r"\(3 against 4 tokens, 3 of them alike\)"),
        ((b"a", b"b", b"d", b"c"), r"\(4 against 4 tokens, 2 of them alike\)"),
    ],
    ids=["fewer", "others"],
)
def test_a_drafter_of_other_words_may_not(words: tuple[bytes, ...], says: str) -> None:
    """As many words are not the same ones: fails when ids are passed on that mean something else to the target."""
    with pytest.raises(DrafterUnusable, match=f"small has another vocabulary than large {says}; use a drafter of"):
        check_vocabulary("small", model(*words), model(*WORDS), "large")


# --- weights of drafters


def test_weights_are_loaded_once_a_place(drafters: Drafters) -> None:
    """A ladder asks for them at every step. Fails when a second copy is read, or a place is mistaken for another."""
    first = drafters.get("good", HERE)
    assert drafters.get("good", HERE) is first
    assert drafters.get("good", THERE) is not first
    assert [w.options.n_gpu_layers for w in Weights.alive] == [0, 3]
    assert not any(w.options.extra_buffers for w in Weights.alive)


def trimmed_source(path: Path) -> Any:
    return SimpleNamespace(name="good", path=path, shape=SimpleNamespace(n_whole_vocab=8192, n_vocab=1024))


@pytest.mark.parametrize("k", [1024, 2048], ids=["other rows", "more rows"])
def test_a_drafter_that_was_trimmed_again_waits_for_the_next_start(drafters: Drafters, tmp_path: Path, k: int) -> None:
    """Fails when a step up the ladder loads more bytes than the plan counted, or rows under other ids' names."""
    path = cut(DRAFT, tmp_path / "good.gguf").path
    drafters.sources["good"] = trimmed_source(path)
    load = drafters.loader.model

    def trimmed_meanwhile(*args: Any) -> Any:
        ids = np.union1d(always_kept(vocabulary_of(DRAFT)), np.arange(8192 - k, 8192))[-k:].astype(np.int32)
        trim(DRAFT, path, Kept(ids, None), "a test")
        return load(*args)

    object.__setattr__(drafters, "loader", SimpleNamespace(model=trimmed_meanwhile))
    with pytest.raises(DrafterUnusable, match="it drafts from the next start on"):
        drafters.get("good", HERE)
    assert not Weights.alive


def test_a_trimmed_drafter_is_loaded_with_its_head_and_not_without_its_original(
    drafters: Drafters, tmp_path: Path
) -> None:
    """Fails when its dummy tokens are taken for ids, or an original that changed since the plan is read."""
    original = tmp_path / "draft.gguf"
    shutil.copyfile(DRAFT, original)
    path = cut(original, tmp_path / "good.gguf").path
    drafters.sources["good"] = trimmed_source(path)
    head = cast(Any, drafters.get("good", HERE)).head
    assert (head.vocabulary, head.table.n_vocab, head.table.row_bytes, len(head.ids)) == (original, 8192, 272, 1024)
    original.unlink()
    with pytest.raises(DrafterUnusable, match="goes on reading its original"):
        drafters.get("good", THERE)
    assert len(Weights.alive) == 1


def test_a_release_frees_these_weights_and_they_can_come_back(drafters: Drafters) -> None:
    """Fails when a step down the ladder frees nothing, or frees what another place still uses."""
    here, there = drafters.get("good", HERE), drafters.get("good", THERE)
    drafters.release(DraftModel("good", SPEC, HERE))
    assert Weights.alive == [there]
    drafters.release(DraftModel("good", SPEC, HERE))
    assert drafters.get("good", HERE) is not here
    assert len(Weights.alive) == 2


def test_close_frees_every_drafter_and_may_be_repeated(drafters: Drafters) -> None:
    """Fails when a refusal leaves weights behind, or a plan without a drafter keeps those that were tried."""
    drafters.get("good", HERE)
    drafters.get("good", THERE)
    drafters.close()
    drafters.close()
    assert Weights.alive == []


def test_a_drafter_that_cannot_draft_leaves_nothing_in_memory(drafters: Drafters) -> None:
    """Fails when what was passed over stays loaded, or a broken file is another kind of error than other words."""
    with pytest.raises(DrafterUnusable, match="other has another vocabulary than target"):
        drafters.get("other", HERE)
    with pytest.raises(DrafterUnusable, match="could not load broken"):
        drafters.get("broken", HERE)
    assert (Weights.alive, drafters.models) == ([], {})


def test_a_context_that_a_drafter_cannot_have_makes_it_unusable(drafters: Drafters) -> None:
    """The ladder goes on without it. Fails when the user's whole request ends there, or a cancel is taken for it."""
    steps = build(cast(LlamaModel, Weights(Path("good.gguf"), LoadOptions(), lambda _: True)), drafters, drafting())
    assert steps.draft(DraftModel("good", SPEC)).spec == SPEC
    with pytest.raises(DrafterUnusable, match="no room"):
        steps.draft(DraftModel("good", ContextSpec(65)))
    with pytest.raises(DoesNotFit):
        steps.target(ContextSpec(65))
    stopped = Loader(LoadOptions(), lambda _what, _done: None, lambda: True)
    with pytest.raises(Cancelled):
        build(model(*WORDS), Drafters(stopped, {}, model(*WORDS), "", drafters.models), drafting()).draft(
            DraftModel("good", SPEC)
        )


def test_a_model_drafts_by_masks_only_if_it_has_one() -> None:
    """Fails when a method is offered that the file cannot, or one that it can is left out."""
    context = FakeModel().open(SPEC)
    assert list(drafting().with_model(None, context)) == ["model", "mix"]
    assert list(drafting().with_model(0, context)) == ["model", "parallel", "mix"]


def test_drafters_of_one_context_have_one_past() -> None:
    """Fails when one of them believes in a cache that another has moved on to another conversation."""
    context = FakeModel().open(SPEC)
    every = drafting().with_model(0, context)
    for i, text in enumerate(
        ([1, 2, 3, 4, 5, 6], [7, 8, 9], [1, 2, 3, 4, 5, 6, 7], [7, 8, 9, 1, 2, 3, 4, 5], [7, 8, 6])
    ):
        name = ("model", "parallel", "mix")[i % 3]
        history = np.array(text, np.int32)
        every[name].draft(history, Choice(name, 4, 3, 1), Process(Sampling(temperature=0)), Noise(0))
        every[name].commit(np.append(history, np.int32(5)), Verdict((0,), (5,), None))
        assert context._slots[0].tokens == text


def test_a_stack_frees_what_it_was_given(drafters: Drafters) -> None:
    """Fails when a cancel in mid-load, or an error after it, keeps a model."""
    with ExitStack() as stack:
        drafters.loader.model(Path("good.gguf"), HERE, stack)
        assert len(Weights.alive) == 1
    assert Weights.alive == []
    asked = iter([False, True])
    stopped = Loader(LoadOptions(), lambda _what, _done: None, lambda: next(asked))
    with ExitStack() as stack, pytest.raises(Cancelled):
        stopped.model(Path("good.gguf"), HERE, stack)
    assert Weights.alive == []


def test_a_placement_changes_where_weights_lie_and_nothing_else() -> None:
    """Fails when the self-test's findings get lost for a model on a device."""
    found = placed(LoadOptions(extra_buffers=False, exact_holds=False), Placement(5, (1.0, 0.0), True))
    assert found == LoadOptions(False, False, n_gpu_layers=5, tensor_split=(1.0, 0.0), experts_on_cpu=True)

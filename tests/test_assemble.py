"""What is put together for which settings, with the demo; and what is taken apart again when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec import assemble
from edgespec.assemble import open_assistant
from edgespec.assistant import Assistant
from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.errors import BadSetting, Cancelled, DrafterUnusable, ModelNotFound
from edgespec.memory import survey
from edgespec.memory.source import read_source
from edgespec.planning import Planner
from edgespec.retrimming import Retrimming
from edgespec.settings import Settings
from edgespec.speculation.cost import Curve
from edgespec.store.registry import Entry, resolve
from edgespec.types import Message, PlanLine, Sampling
from tests.cut import cut

HI = [{"role": "user", "content": "hi"}]
GREEDY = Sampling(temperature=0)
# Whether auto drafts depends on what passes were found to cost here; a named method always does.
DRAFTING = Settings(method="model", nodes=4)


@pytest.fixture(scope="module")
def demo() -> Iterator[Assistant]:
    with edgespec.open("demo", DRAFTING) as assistant:
        yield assistant


@dataclass
class Opened:
    """Models and contexts: those still open, and the kinds of those closed, in order."""

    alive: list[object] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return [type(one).__name__ for one in self.alive]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    found = Opened()
    for kind in (LlamaModel, LlamaContext):
        make, close = kind.__init__, kind.close

        def made(self: object, *args: Any, make: Any = make, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            found.alive.append(self)

        def closed(self: object, close: Any = close) -> None:
            close(self)
            if self in found.alive:
                found.alive.remove(self)
                found.closed.append(type(self).__name__)

        monkeypatch.setattr(kind, "__init__", made)
        monkeypatch.setattr(kind, "close", closed)
    return found


def plan_of(assistant: Assistant) -> dict[str, PlanLine]:
    return {line.line: line for line in assistant.plan}


def facts(monkeypatch: pytest.MonkeyPatch, **changed: bool) -> None:
    found = replace(HostFacts(extra_buffers=True, exact=True, row_depends_on_width=True), **changed)
    monkeypatch.setattr(assemble, "host_facts", lambda *_: found)


def drafters(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the model list name these for the demo."""

    def listed(name: str) -> Entry:
        entry = resolve(name)
        return replace(entry, drafts=names) if entry.name == "demo" else entry

    monkeypatch.setattr(assemble, "resolve", listed)


def remember(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Let passes have been timed before, a target's wide one as dear as a lone one and a drafter's hundred times
    cheaper, so that auto drafts; or never, so that priors decide, which are the same everywhere."""
    flat = {ms: Curve(64, (1, 2, 4, 8, 16), (ms,) * 5) for ms in (100.0, 1.0)}
    monkeypatch.setattr(Planner, "curve_key", lambda self, source, _placement: f"of {source.name}")
    found = (lambda key: flat[100.0 if key == "of demo" else 1.0]) if known else (lambda key: None)
    monkeypatch.setattr(survey, "remembered_curve", found)


@pytest.mark.parametrize(("known", "timed"), [(("demo",), ["demo-draft"]), (("demo", "demo-draft"), [])])
def test_a_drafter_that_is_new_to_a_known_target_is_timed_alone(
    monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...], timed: list[str]
) -> None:
    """Fails when its cost stays a guess for good, as that of one that was trimmed again would, or a known target is
    timed with it."""
    curve = Curve(64, (1, 2, 4, 8, 16), (100.0,) * 5)
    saved: list[str] = []
    monkeypatch.setattr(Planner, "curve_key", lambda self, source, _placement: source.name)
    monkeypatch.setattr(survey, "remembered_curve", lambda key: curve if key in known else None)
    monkeypatch.setattr("edgespec.store.calibration.save", lambda key, _: saved.append(key))
    monkeypatch.setattr("edgespec.engine.calibrate.measure", lambda *_, **__: curve)
    open_assistant(replace(DRAFTING, context=128)).close()
    assert saved == timed


# --- as a library


def test_a_conversation_streams_in_one_line(demo: Assistant) -> None:
    """The README promises it; messages as every other tool writes them."""
    text = "".join(demo.stream(HI, GREEDY))
    assert text
    assert text == demo.answer([Message("user", "hi")], GREEDY).text


def test_a_message_with_other_keys_is_refused_by_name(demo: Assistant) -> None:
    """A name or a picture that is dropped without a word would be missed much later."""
    with pytest.raises(BadSetting, match="a message has role and content, not role, image"):
        next(demo.stream([{"role": "user", "image": "x"}]))


def test_closing_a_stream_stops_the_answer_and_the_next_goes_on(demo: Assistant) -> None:
    """Leaving a loop over it is the only way a library user has to stop."""
    stream = demo.stream([{"role": "user", "content": "Tell me a long story."}])
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert demo.answer(HI, GREEDY).finish == "stop"


def test_a_model_named_to_open_wins_over_the_settings() -> None:
    """Both can name one; the nearer one counts."""
    with pytest.raises(ModelNotFound, match="nearer"):
        edgespec.open("nearer", Settings(model="farther"))
    with pytest.raises(ModelNotFound, match="farther"):
        edgespec.open(settings=Settings(model="farther"))


# --- the plan


def test_the_plan_has_a_line_for_each_decision_and_says_why(demo: Assistant) -> None:
    """--json promises line, value and reason; a line twice would contradict itself."""
    assert [line.line for line in demo.plan] == list(plan_of(demo))
    assert all(line.value and line.reason for line in demo.plan)
    names = ["weights", "memory", "context", "kv", "drafter", "rows", "draft kv", "prompt batch", "threads"]
    assert [name for name in plan_of(demo) if name != "placement"] == [*names, "extra buffers", "exact", "ladder"]
    assert plan_of(demo)["drafter"].value == "demo-draft"
    assert plan_of(demo)["context"].value == "2048"


def test_what_is_told_is_what_runs(demo: Assistant) -> None:
    """The plan may be made twice, before and after passes were timed; the lines must be of the one that is opened."""
    assert plan_of(demo)["rows"].value.startswith("4 (")
    assert demo.engine.method == demo.memory.method == "model"
    assert set(demo.memory.lines) <= set(demo.plan)
    assert demo.memory.predicted.of("draft weights") > 0
    assert demo.n_rungs > 1


def test_what_was_asked_for_is_used_and_said() -> None:
    """An override that is ignored would make every comparison worthless."""
    asked = Settings(draft="demo-draft", shape="chain", nodes=4, context=256, kv="q8_0", threads=1)
    with open_assistant(asked) as assistant:
        plan = plan_of(assistant)
        asked_for = {"drafter": "demo-draft", "rows": "4 (chain)", "context": "256", "kv": "q8_0", "threads": "1"}
        assert {name: plan[name].value for name in asked_for} == asked_for
        assert {name: plan[name].reason.split(";")[0] for name in asked_for} == dict.fromkeys(asked_for, "asked for")
        assert assistant.engine.n_ctx == 256
        answer = assistant.answer(HI, GREEDY)
        assert answer.draft_n <= 3 * answer.n_rounds


@pytest.mark.parametrize("asked", [Settings(method="plain"), Settings(nodes=1)], ids=["plain", "nodes"])
def test_plain_decoding_loads_no_drafter(opened: Opened, asked: Settings) -> None:
    """Its memory is what the user wanted to save."""
    with open_assistant(replace(asked, context=128)) as assistant:
        assert opened.kinds() == ["LlamaModel", "LlamaContext"]
        assert assistant.engine.method == "plain"
        assert assistant.answer(HI, GREEDY).draft_n == 0


def test_without_a_drafter_sources_draft(opened: Opened) -> None:
    """`-d none` is about files. Fails when it also forbids what needs none, or a drafter is loaded for it."""
    with open_assistant(Settings(draft="none", context=256)) as assistant:
        assert opened.kinds().count("LlamaModel") == 1
        assert plan_of(assistant)["sources"].value == "on"
        first = assistant.answer(HI, GREEDY)
        again = assistant.answer(HI, GREEDY)
        assert again.tokens == first.tokens
        assert again.n_rounds < len(again.tokens)  # it was said before


def test_greedy_answers_with_and_without_a_drafter_are_the_same_under_exact() -> None:
    """Whatever assemble puts together, the text is the target's own."""
    with (
        open_assistant(replace(DRAFTING, exact=True)) as drafting,
        open_assistant(Settings(exact=True, draft="none")) as plain,
    ):
        assert plan_of(drafting)["exact"].value in ("on", "plain")
        assert drafting.answer(HI, GREEDY).tokens == plain.answer(HI, GREEDY).tokens


# --- drafters that cannot draft


def test_a_drafter_with_another_vocabulary_is_refused_when_it_was_named() -> None:
    """Its ids mean other words; drafts from it would never be accepted."""
    with pytest.raises(DrafterUnusable, match="3072 against 8192 tokens"):
        open_assistant(Settings(draft="demo-xdraft"))


@pytest.mark.parametrize("timed", [True, False])
def test_a_drafter_that_only_the_list_names_is_passed_over_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, timed: bool
) -> None:
    """The user asked for an answer, not for this drafter; nothing of it may stay in memory."""
    drafters(monkeypatch, "demo-xdraft")
    remember(monkeypatch, timed)
    with open_assistant(Settings(context=128)) as assistant:
        line = plan_of(assistant)["drafter"]
        assert line.value == "none"
        assert line.reason.startswith("demo-xdraft was passed over: drafter demo-xdraft has another vocabulary")
        assert assistant.engine.method == "lookup"
        assert len(opened.alive) == 2


def test_a_method_that_needs_a_drafter_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A named method always drafts; only auto may choose plain."""
    drafters(monkeypatch)
    with pytest.raises(DrafterUnusable, match="name one with -d"):
        open_assistant(Settings(method="model"))
    drafters(monkeypatch, "demo-xdraft")
    with pytest.raises(DrafterUnusable, match="another vocabulary"):
        open_assistant(Settings(method="model"))


# --- trimmed drafters


def test_a_trimmed_drafter_drafts_and_counts_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when its rows' ids get lost between backend and tree, or idle time has nothing to go by."""
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    path = cut(resolve("demo-draft").path, tmp_path / "t.gguf", 4096).path
    with open_assistant(replace(DRAFTING, draft=str(path))) as assistant:
        answer = assistant.answer([{"role": "user", "content": "How do I bake bread?"}], max_tokens=30)
        assert answer.draft_n_accepted > 0
        line = plan_of(assistant)["draft head"]
        assert (line.value, line.reason) == ("4096 of 8192 rows", "by counts of a test")
        assert assistant.keep() is None
        assert assistant.tidy(lambda: False) is None  # too little was said
    again = Retrimming(read_source("demo", resolve("demo").path), read_source("t", path))
    assert again.usage.counts.sum() == pytest.approx(len(answer.tokens), rel=1e-3)


def test_one_file_that_cannot_be_kept_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the first warning of closing throws away what was counted."""
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    path = cut(resolve("demo-draft").path, tmp_path / "t.gguf", 4096).path
    with open_assistant(replace(DRAFTING, draft=str(path))) as assistant:
        answer = assistant.answer([{"role": "user", "content": "How do I bake bread?"}], max_tokens=30)
        monkeypatch.setattr(Planner, "save_learnt", lambda _: "the disk is full")
        assert assistant.keep() == "the disk is full"
    again = Retrimming(read_source("demo", resolve("demo").path), read_source("t", path))
    assert again.usage.counts.sum() == pytest.approx(len(answer.tokens), rel=1e-3)


def test_the_next_drafter_is_loaded_where_one_is_unusable(monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    """Fails when the plan names a drafter that nobody opens, or decodes plainly though another could draft."""
    drafters(monkeypatch, "demo-xdraft", "demo-draft")
    remember(monkeypatch, True)
    with open_assistant(Settings(context=128, method="model", nodes=4)) as assistant:
        assert plan_of(assistant)["drafter"].value == "demo-draft"
        assert any(warning.startswith("demo-xdraft was passed over: ") for warning in assistant.warnings)
        assert assistant.engine.method == "model"


# --- after a death


@pytest.mark.parametrize("method", ["plain", "model"])
def test_a_restart_keeps_the_context_that_was_promised(method: str) -> None:
    """The next rung of a plan without a drafter is a shorter context: one death would end an answer early with
    "length", or leave other turns out in the middle of it."""
    settings = Settings(method=method, nodes=None if method == "plain" else 8)
    with open_assistant(settings) as first:
        n_ctx, n_rungs = first.engine.n_ctx, first.n_rungs
    with open_assistant(settings, rung=99) as again:
        assert (again.engine.n_ctx, again.n_rungs) == (n_ctx, n_rungs)
        assert not [warning for warning in again.warnings if "memory did not suffice" in warning]
        steps = plan_of(again)["ladder"].value
        assert steps.startswith(f"step {n_rungs - 1} of ") if n_rungs > 1 else steps.endswith(" steps")
    assert (n_rungs > 1) == (method == "model")


# --- what this machine found out about itself


def test_exact_decodes_plainly_and_says_so_where_rows_depend_on_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafting there would break the one promise that --exact makes."""
    facts(monkeypatch, exact=False)
    with open_assistant(Settings(exact=True, context=128)) as assistant:
        assert assistant.engine.method == "plain"
        assert plan_of(assistant)["exact"].value == "plain"
        assert any("--exact" in warning and "plain" in warning for warning in assistant.warnings)


def test_a_load_option_that_kills_this_host_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test is of no use when its outcome gets lost on the way."""
    facts(monkeypatch, extra_buffers=False)
    used: list[bool] = []
    make = LlamaModel.__init__

    def made(self: LlamaModel, path: Path, options: assemble.LoadOptions, *rest: object) -> None:
        used.append(options.extra_buffers)
        make(self, path, options, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LlamaModel, "__init__", made)
    with open_assistant(replace(DRAFTING, context=128)) as assistant:
        assert plan_of(assistant)["extra buffers"].value == "off"
    assert used == [False, False]


# --- refusals and cancels leave nothing open


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Settings(context=4096), "--context 4096 is beyond the 2048 tokens"),
        (Settings(exact=True, nodes=33), "--nodes 33 is more than the 32 rows"),
        (Settings(nodes=1, method="model"), "--nodes 1 leaves no room for a draft"),
    ],
    ids=["context", "nodes", "contradiction"],
)
def test_a_refusal_frees_what_was_opened(opened: Opened, asked: Settings, says: str) -> None:
    """The worker lives on and may be asked for another model."""
    with pytest.raises(BadSetting, match=says):
        open_assistant(asked)
    assert opened.alive == []


@pytest.mark.parametrize("n_asked", [1, 2, 5, 30])
def test_a_cancel_at_any_point_of_loading_frees_what_was_opened(opened: Opened, n_asked: int) -> None:
    """Ctrl-C may come while weights are read, between the models, or before a context."""
    times = 0

    def cancelled() -> bool:
        nonlocal times
        times += 1
        return times >= n_asked

    with pytest.raises(Cancelled):
        open_assistant(DRAFTING, cancelled=cancelled)
    assert opened.alive == []


def test_contexts_are_closed_before_their_models(opened: Opened) -> None:
    """The runtime frees a context through its model; the other way round is a use after free."""
    assistant = open_assistant(replace(DRAFTING, context=128))
    assert opened.kinds() == ["LlamaModel", "LlamaModel", "LlamaContext", "LlamaContext"]
    opened.closed.clear()  # of those that passes were timed with
    assistant.close()
    assert opened.closed == ["LlamaContext", "LlamaContext", "LlamaModel", "LlamaModel"]
    assistant.close()
    assert opened.alive == []


def test_progress_names_each_file_and_reaches_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model takes minutes to read; silence looks like a hang."""
    facts(monkeypatch)
    seen: dict[str, float] = {}
    open_assistant(replace(DRAFTING, context=128), report=seen.__setitem__).close()
    seen.pop("timing passes on this machine (once)", None)
    assert seen == {"loading demo": 1.0, "loading demo-draft": 1.0}

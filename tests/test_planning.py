"""From what was asked of a model to its plan: what is forced, remembered and watched. Nothing is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgespec import explain
from edgespec.backends.llama_cpp.selftest import HostFacts
from edgespec.candidates import insists
from edgespec.errors import BadSetting, DoesNotFit, DrafterUnusable, ModelUnusable
from edgespec.gguf.shape import Shape, read_shape
from edgespec.memory.configuration import Placement
from edgespec.memory.pressure import Gauge, Reading
from edgespec.memory.sizes import GIB, MIB
from edgespec.planning import Planner
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.speculation.cost import Curve
from edgespec.store import calibration, learnt
from edgespec.store.registry import Entry, resolve
from edgespec.types import Choice, ContextSpec, Step
from tests.cut import cut

FACTS = HostFacts(extra_buffers=True, exact=True, row_depends_on_width=True)
WIDTHS = (1, 2, 4, 8, 16)
FLAT, CHEAP, STEEP = (Curve(64, WIDTHS, ms) for ms in ((100.0,) * 5, (1.0,) * 5, (100.0, 200.0, 400.0, 800.0, 1600.0)))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that knows nothing about itself, and a process that weighs nothing."""
    monkeypatch.setenv("EDGESPEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("edgespec.memory.measure.pss", lambda _=None: 0)


def planner(asked: Settings | None = None, drafts: Sequence[str] = ("demo-draft",), exact: bool = True) -> Planner:
    entry = replace(resolve("demo"), drafts=tuple(drafts))
    return Planner(asked or Settings(), entry, replace(FACTS, exact=exact))


def remember(target: Curve, draft: Curve = CHEAP) -> None:
    """As an earlier run left it."""
    one = planner()
    assert one.draft is not None
    calibration.save(one.curve_key(one.target, Placement()), target.to_dict())
    calibration.save(one.curve_key(one.draft, Placement()), draft.to_dict())


def taught(ranks: tuple[int, ...], n: int = 800) -> Acceptance:
    """After so many sampled rounds of trees and chains, whose walks took these children."""
    found = Acceptance()
    for width in (1, 8):
        for _ in range(n):
            choice = Choice("model", 4, 3, width)
            found.observe(Step((0,), choice, 3, 0, 1.0, 1.0, 0.0, ranks=ranks, greedy=False))
    return found


# --- what is forced plain, and why


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Settings(method="plain"), "asked for"),
        (Settings(draft="none"), "asked for"),
        (Settings(nodes=1), "--nodes 1 leaves no room for a draft"),
    ],
    ids=["method", "draft", "nodes"],
)
def test_what_the_user_rules_out_is_neither_read_nor_planned(asked: Settings, why: str) -> None:
    """Fails when a drafter's file is looked for in vain, or its bytes count."""
    one = planner(asked, drafts=["missing.gguf"])
    assert (one.why_plain, one.draft) == (why, None)
    made = one.plan()
    assert (made.method, made.configuration.draft) == ("plain", None)
    assert not made.footprint.of("draft weights")


def test_exact_is_plain_where_rows_depend_on_their_pass() -> None:
    """The self-test knows. Fails when drafts break what --exact promises."""
    asked = Settings(exact=True, method="model")
    assert planner(asked, exact=False).why_plain == explain.NOT_EXACT
    assert planner(asked, exact=False).plan().method == "plain"
    assert planner(asked).plan().method == "model"


def test_a_recurrent_target_is_plain_and_a_recurrent_drafter_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can drop what was rejected; a drafter that was only listed is passed over. Fails when the wrong one of
    them decides."""
    width = read_shape(resolve("demo-draft").path).n_embd
    monkeypatch.setattr(Shape, "recurrent", property(lambda shape: shape.n_embd == width))
    assert planner().why_plain.startswith("demo-draft was passed over: demo-draft has a recurrent state")
    with pytest.raises(DrafterUnusable, match="recurrent state"):
        planner(Settings(method="model"))
    monkeypatch.setattr(Shape, "recurrent", property(lambda shape: shape.n_embd != width))
    assert planner().why_plain == "this model's recurrent state cannot drop rejected tokens"


# --- drafters that were insisted on


@pytest.mark.parametrize(
    ("asked", "does"),
    [
        (Settings(), False),
        (Settings(method="plain"), False),
        (Settings(draft="none"), False),
        (Settings(method="model"), True),
        (Settings(draft="demo-draft"), True),
    ],
)
def test_who_names_a_source_of_drafts_insists(asked: Settings, does: bool) -> None:
    """The difference between an error and a remark."""
    assert insists(asked) == does


def test_a_drafter_that_is_missing_is_an_error_to_who_insists_and_a_remark_to_others() -> None:
    """Fails when a choice of the user's has no effect and nobody says so, or a list's entry ends the program."""
    with pytest.raises(DrafterUnusable, match=r"there is no file missing\.gguf"):
        planner(Settings(draft="missing.gguf"))
    with pytest.raises(DrafterUnusable, match="no drafter is known for demo; name one with -d"):
        planner(Settings(method="model"), drafts=[])
    with pytest.raises(BadSetting, match="--nodes 1 leaves no room for a draft; use 2 or more"):
        planner(Settings(draft="demo-draft", nodes=1))
    assert planner(drafts=["missing.gguf"]).why_plain.startswith("missing.gguf was passed over: there is no file")
    assert planner(drafts=[]).why_plain == "no drafter is known for this model; name one with -d"


def test_the_next_known_drafter_is_taken_where_one_cannot_be(tmp_path: Path) -> None:
    """Fails when a trimmed drafter whose original is gone ends drafting, though the full one is there."""
    original = tmp_path / "draft.gguf"
    shutil.copyfile(resolve("demo-draft").path, original)
    trimmed = cut(original, tmp_path / "trimmed.gguf").path
    names = [str(trimmed), "demo-draft"]
    one = planner(drafts=names)
    assert (one.draft and one.draft.path, one.passed_over) == (trimmed, [])
    original.unlink()
    for asked in (Settings(), Settings(method="model")):
        one = planner(asked, drafts=names)
        assert (one.draft and one.draft.name, one.why_plain) == ("demo-draft", "")
        assert "trimmed.gguf was passed over" in one.passed_over[0]
        assert "goes on reading its original" in one.passed_over[0]
    with pytest.raises(DrafterUnusable, match="goes on reading its original"):
        planner(Settings(draft=str(trimmed)))


def test_a_drafter_that_proves_unusable_once_loaded_gives_way_to_the_next() -> None:
    """Fails when the plan goes on with what could not be loaded, or plainly though another was there."""
    one = planner(drafts=["demo-draft-parallel", "demo-draft"])
    one.pass_over(DrafterUnusable("it is broken"))
    assert (one.draft and one.draft.name, one.why_plain) == ("demo-draft", "")
    assert one.passed_over == ["demo-draft-parallel was passed over: it is broken"]
    assert one.plan(Settings(method="model", nodes=4)).configuration.draft.name == "demo-draft"  # type: ignore[union-attr]
    one.pass_over(DrafterUnusable("so is this"))
    assert (one.draft, one.why_plain) == (None, "demo-draft was passed over: so is this")
    insisting = planner(Settings(draft="demo-draft"))
    with pytest.raises(DrafterUnusable, match="it is broken"):
        insisting.pass_over(DrafterUnusable("it is broken"))


def test_a_trimmed_drafter_is_no_target(tmp_path: Path) -> None:
    """Fails when a model that can say a part of its vocabulary answers."""
    path = cut(resolve("demo").path, tmp_path / "trimmed.gguf").path
    with pytest.raises(ModelUnusable, match=r"can say 1024 of 8192 tokens.*name it with -d"):
        Planner(Settings(), resolve(str(path)), FACTS)


def test_who_insists_gets_a_draft_where_it_does_not_pay() -> None:
    """Only auto may choose plain. Fails when a measurement outvotes the user."""
    remember(STEEP)
    assert planner().plan().method == "plain"
    made = planner(Settings(method="model", nodes=4)).plan()
    assert (made.method, made.configuration.choice.rows) == ("model", 4)


def test_without_a_draft_nothing_drafts_from_then_on() -> None:
    """A drafter may prove unusable once it is loaded. Fails when its bytes or its method stay in the plan."""
    one = planner()
    one.without_draft("it was passed over")
    made = one.plan(Settings(method="model"))
    assert (one.draft, one.why_plain, made.method) == (None, "it was passed over", "plain")
    assert not made.footprint.of("draft weights")


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """models.toml says of the demo's drafter that it was taught to fill in masks."""
    entry = replace(resolve("demo-draft"), mask_token_id=8191)
    monkeypatch.setattr("edgespec.candidates.resolve", lambda name: entry if name == "demo-draft" else resolve(name))


def test_parallel_drafting_needs_a_mask() -> None:
    """Fails when a drafter that was never taught one is asked to fill some token in, in silence."""
    with pytest.raises(DrafterUnusable, match=r"demo-draft cannot draft in parallel: neither its file .* use --method"):
        planner(Settings(method="parallel"))
    with pytest.raises(DrafterUnusable, match="no drafter is known for demo"):
        planner(Settings(method="parallel"), drafts=[])
    with pytest.raises(BadSetting, match="--method parallel needs a drafter, but -d none forbids one"):
        Settings(method="parallel", draft="none")


def test_parallel_drafting_is_planned_where_there_is_a_mask(masked: None) -> None:
    """Fails when the method that was asked for is not the one that runs, or auto does not know of it."""
    remember(FLAT)
    made = planner(Settings(method="parallel")).plan()
    assert (made.method, made.configuration.choice.drafter) == ("parallel", "parallel")
    remember(FLAT, draft=Curve(64, WIDTHS, (30.0,) * 5))  # a drafter whose passes are dear
    assert planner().plan().method == "parallel"


def test_what_masks_taught_is_kept_apart(masked: None) -> None:
    """Fails when a place's figures are those of a drafter that reads its own drafts, or are lost at the end."""
    one = planner()
    before = one.known.by_place.by_rank(False, 8)
    for _ in range(50):
        one.known.by_place.observe(Step((0,), Choice("parallel", 4, 3, 8), 3, 1, 1.0, 1.0, 0.0, ranks=(0, -1)))
    assert one.save_learnt() is None
    again = planner().known
    assert again.by_place.by_rank(False, 8)[0, 0] > before[0, 0]
    assert again.acceptance.n_seen(greedy=False) == 0


# --- what earlier runs measured and taught


def test_remembered_times_of_passes_decide() -> None:
    """Of the same model, build and machine. Fails when every start measures anew, or measures for nothing."""
    assert planner().known.curve is None
    remember(FLAT)
    one = planner()
    assert (one.known.curve, one.known.draft_curve) == (FLAT, CHEAP)
    made = one.plan()
    assert made.method == "model"
    assert made.configuration.choice.rows in WIDTHS
    assert made.speedup > 2
    remember(STEEP)
    assert planner().plan().method == "plain"
    assert planner(Settings(kv="q8_0")).known.curve is None


def test_a_measurement_of_this_start_replaces_what_was_remembered() -> None:
    """Fails when the plan after timing is the plan of before."""
    one = planner()
    one.timed(one.plan(), STEEP, CHEAP)
    assert one.plan().method == "plain"
    one.timed(one.plan(), FLAT, None)
    assert (one.plan().method, one.known.draft_curve) == ("model", CHEAP)


def test_learnt_acceptance_decides() -> None:
    """Fails when what the user's own conversations taught is saved and never read, or read for another pair."""
    remember(FLAT, draft=Curve(64, WIDTHS, (20.0,) * 5))
    key = planner().learnt_key()
    assert learnt.save(key, taught((0, 0, 0)).to_dict()) is None
    good = planner().plan()
    assert learnt.save(key, taught((-1,)).to_dict()) is None
    bad = planner().plan()
    assert (good.method, bad.method) == ("model", "plain")
    assert good.tokens_per_pass > 2.5
    assert planner(Settings(draft="demo-xdraft")).known.acceptance.n_seen(greedy=False) == 0


def test_what_answers_taught_is_there_for_the_next_start() -> None:
    """Fails when the counts that rounds go into are not the ones that are saved."""
    one = planner()
    one.known.acceptance.observe(Step((0,), Choice("model", 4, 3, 1), 3, 1, 1.0, 1.0, 0.0, ranks=(0,), greedy=False))
    assert one.save_learnt() is None
    assert planner().known.acceptance.n_seen(greedy=False, width=1) == 1
    assert planner(Settings(method="plain")).save_learnt() is None


def test_what_cannot_be_kept_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A full disk is no reason to lose the answer; silence would be found out months later."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGESPEC_DATA_DIR", str(tmp_path / "file"))
    assert "was not kept" in (planner().save_learnt() or "")


# --- room


@pytest.mark.parametrize(("budget", "low", "high"), [(2 * GIB, 21_474_836, 42_949_672), (100 * MIB, 8 * MIB, 16 * MIB)])
def test_the_watch_steps_down_at_a_hundredth_and_up_at_twice_that(budget: int, low: int, high: int) -> None:
    """Of the budget, 8 MiB at least: marks at one height would step up and down for ever. Fails when a small budget is
    never short, or the marks follow what is free elsewhere."""
    one = planner(Settings(budget=budget))
    marks = one.watch(one.plan()).marks
    assert (marks.low_bytes, marks.high_bytes) == (low, high)


def test_passes_are_timed_only_where_there_is_room_beside_both_models() -> None:
    """Fails when measuring, which is worth seconds, takes the machine beyond its budget."""
    one = planner(Settings(budget=200 * MIB))
    assert one.affords(ContextSpec(512))
    assert not one.affords(ContextSpec(512, max_nodes=500, n_slots=16))


def test_what_runs_beside_counts() -> None:
    """The face and the worker share the budget. Fails when a plan fits only an empty machine."""
    alone = planner(Settings(budget=60 * MIB)).plan()
    entry = Entry("demo", resolve("demo").path)
    beside = Planner(Settings(budget=60 * MIB), entry, FACTS, beside_bytes=15 * MIB)
    assert beside.plan().footprint.of("program") == 15 * MIB
    assert beside.plan().footprint.total_bytes <= 60 * MIB
    assert alone.footprint.of("program") == 0
    with pytest.raises(DoesNotFit):
        Planner(Settings(budget=60 * MIB), entry, FACTS, beside_bytes=45 * MIB).plan()


def test_a_budget_beyond_what_is_free_watches_what_is_free() -> None:
    """Fails when a hundredth of a budget that nobody has counts as short of memory: the ladder would fall at once."""
    one = planner(Settings(budget=1 << 50))
    assert one.watch(one.plan()).marks.low_bytes <= one.machine.free_bytes // 50


def test_mapped_weights_are_not_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would give their pages away. Fails when a hog can push out the weights before anything is noticed; a
    control group counts them itself."""
    one = planner(Settings())
    made = one.plan()
    mapped = made.footprint.mapped_bytes
    assert mapped >= one.target.shape.weight_bytes
    for limit, missing in (("on this machine", mapped), ("in control group /small", 0)):
        monkeypatch.setattr(Gauge, "read", lambda _, limit=limit: Reading(GIB, limit))
        assert one.watch(made).read().free_bytes == GIB - missing


def test_what_one_rule_teaches_is_kept_from_the_other() -> None:
    """Fails when rejection, which accepts other children, moves what draw and match is planned by."""
    assert planner(Settings(verify="rejection")).learnt_key() != planner().learnt_key()
    assert planner(Settings(verify="match")).learnt_key() == planner().learnt_key()

"""Steps between rounds on the fake backend: what is exchanged, what is said, and that the text is the same."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgespec.backends.fake import FakeContext
from edgespec.engine.ladder import Ladder
from edgespec.engine.notices import difference
from edgespec.engine.setup import Held
from edgespec.errors import BadSetting, Cancelled, DecodeFailed, DoesNotFit, DrafterUnusable
from edgespec.memory.configuration import DraftModel, Placement
from edgespec.memory.pressure import Marks, Reading, Watch
from edgespec.types import PLAIN, Choice, ContextSpec, Notice, Sampling
from tests.engine.machine import NARROW, Machine, Script, answer, bytes_of, on, plainly, rung

PROMPT = [1, 2, 3, 4, 5]
RUNGS = [
    rung(),
    rung(choice=NARROW),
    rung(choice=NARROW, kv="q4_0"),
    rung(choice=NARROW, kv="q4_0", window=32),
    rung(choice=NARROW, kv="q4_0", window=32, kv_type="q8_0"),
    rung(2048, PLAIN, kv_type="q8_0"),
]


def scripted(moves: str, start: int = 0) -> tuple[Ladder, Machine]:
    """d: down, u: up, anything else: stay; one letter a round from the second one on."""
    words = [{"d": "down", "u": "up"}.get(letter, "stay") for letter in moves]
    machine = Machine()
    return Ladder(RUNGS, machine.build(), start=start, watch=Script(words).watch()), machine


def kinds(notices: list[Notice], kind: str = "ladder") -> list[str]:
    return [n.text for n in notices if n.kind == kind]


# --- the text


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(8))
def test_the_text_does_not_depend_on_the_steps_taken(seed: int, temperature: float) -> None:
    """Fails when a step loses, doubles or moves a token, on any way up and down six rungs."""
    moves = "".join(random.Random(seed).choices("du.", weights=(3, 2, 2), k=80))
    ladder, _ = scripted(moves)
    said, notices, _ = answer(on(ladder), PROMPT, 200, temperature)
    assert kinds(notices)
    assert said == plainly(PROMPT, 200, temperature)


def test_the_next_turn_finds_its_history_after_steps() -> None:
    """Fails when the cache forgets after a step: only what is new may be read."""
    ladder, _ = scripted("ddd.u.dd")
    engine = on(ladder)
    said, _, _ = answer(engine, PROMPT, 60)
    prompt = [*PROMPT, *said, 7, 8]
    prefill = next(e for e in engine.generate(prompt, Sampling(temperature=0), 5, end_ids=()) if hasattr(e, "n_cached"))
    assert prefill.n_cached == len(prompt) - 3


# --- what is exchanged


def test_a_smaller_draft_exchanges_nothing_but_the_controller() -> None:
    """Fails when contexts are opened again though they serve: rows that a pass may have are no reason to shrink it."""
    same = replace(rung(choice=NARROW), target=rung().target)
    machine = Machine()
    ladder = Ladder([rung(), same], machine.build(), watch=Script(["stay", "down"]).watch())
    before = list(machine.opened)
    _, _, steps = answer(on(ladder), PROMPT, 40)
    assert machine.opened == before
    assert [s.choice.rows for s in steps[:4]] == [1, 8, 4, 4]


def test_a_drafters_cache_of_another_type_leaves_the_target_alone() -> None:
    """Fails when a step of the drafter moves the conversation."""
    ladder, machine = scripted("d")
    answer(on(ladder), PROMPT, 20)
    del machine.opened[:]
    ladder._watch = Script(["stay", "down"]).watch()
    answer(on(ladder), PROMPT, 20)
    assert [model for model, _, _ in machine.opened] == ["fake-draft"]
    assert ladder.configuration.draft.context.kv_type == "q4_0"


def test_a_state_of_the_same_kind_is_copied_and_another_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a step reads a conversation that it could copy, or copies rows of another type."""
    machine = Machine()
    wide, narrow, other = rung(choice=PLAIN), rung(choice=PLAIN, n_ubatch=64), rung(choice=PLAIN, kv_type="q4_0")
    copied: list[bool] = []
    into = Held.into
    monkeypatch.setattr(Held, "into", lambda self, c: [copied.append(into(self, c)), copied[-1]][1])
    ladder = Ladder([wide, narrow, other], machine.build(), watch=Script(["down", "stay", "down"]).watch())
    copied.clear()
    said, _, _ = answer(on(ladder), PROMPT, 20)
    assert copied == [True, False]
    assert said == plainly(PROMPT, 20)


def test_without_a_drafter_its_weights_are_freed_and_come_back() -> None:
    """Fails when the largest thing to give up stays, or is freed while a context still reads it."""
    machine = Machine()
    ladder = Ladder([rung(), rung(choice=PLAIN)], machine.build(), watch=Script(["down", "stay", "up"]).watch())
    seen: list[int] = []
    engine = on(ladder)
    for _ in engine.generate(PROMPT, Sampling(temperature=0), 20, end_ids=()):
        seen.append(machine.weights)
    assert 0 in seen
    assert seen[-1] > 0
    assert engine.method == "model"


def test_a_drafter_keeps_what_it_learnt_over_a_step() -> None:
    """Fails when every step begins to fit the pair's agreement anew."""
    ladder, _ = scripted("..........d.d.u")
    engine = on(ladder)
    drafter = ladder.setup.drafters["model"]
    answer(engine, PROMPT, 60)
    assert ladder.setup.drafters["model"] is drafter


def test_the_drafts_go_on_after_every_step() -> None:
    """Fails when a drafter is lost on the way: each round of a drafting rung must draft."""
    ladder, _ = scripted("dddduuuudd")
    _, _, steps = answer(on(ladder), PROMPT, 60)
    assert all(s.n_drafted > 0 for s in steps[1:-1])


@pytest.mark.parametrize(("lacking", "rung_after"), [(1, 1), (2000, 1), (3000, 2), (1 << 30, 2)])
def test_a_step_goes_as_far_down_as_what_is_lacking(lacking: int, rung_after: int) -> None:
    """Short of 4 MiB the chat took four steps in four rounds, reading its text again in two (benchmarks/hog.py).

    By hand: at 768 tokens a cache in q4_0 frees about 2400 bytes, no drafter 3700.
    """
    free = iter([1 << 30, (1 << 30) - lacking, *[1 << 30] * 100])
    machine, watch = Machine(), Watch(lambda: Reading(next(free)), Marks(1 << 30, 1 << 40))
    rungs = [rung(), rung(kv="q4_0"), rung(choice=PLAIN)]
    ladder = Ladder(rungs, machine.build(), watch=watch, bytes_of=bytes_of)
    _, notices, _ = answer(on(ladder), PROMPT, 40)
    assert ladder.rung == rung_after
    assert len(kinds(notices)) == 1


def test_a_promise_is_not_taken_back_for_nothing() -> None:
    """A shorter context frees nothing while less than that is open; the user lost it all the same."""
    watch = Watch(lambda: Reading(0), Marks(10, 20))
    ladder = Ladder([rung(4096, PLAIN), rung(2048, PLAIN)], Machine().build(), watch=watch, bytes_of=bytes_of)
    _, notices, _ = answer(on(ladder), PROMPT, 40)
    assert (ladder.rung, kinds(notices)) == (0, [])


# --- what is said


def test_a_step_is_said_in_one_sentence_with_both_numbers() -> None:
    """Fails when the user cannot see what changed, why, or where in the answer."""
    machine = Machine(memory=1 << 40)
    ladder = Ladder(RUNGS, machine.build(), start=1, watch=machine.watch(low=512 << 20, high=512 << 20))
    machine.taken_by_others = machine.memory - (412 << 20)
    events = list(on(ladder).generate(PROMPT, Sampling(temperature=0), 12, end_ids=()))
    first = next(i for i, e in enumerate(events) if isinstance(e, Notice))
    n_before = sum(len(e.tokens) for e in events[:first] if hasattr(e, "tokens"))
    text = "memory is short (412 MiB free on this machine, 512 MiB wanted): the drafter's cache is q4_0 now"
    assert events[first] == Notice("ladder", text, n_before)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0, 1, "a pass has 4 rows now"),
        (1, 2, "the drafter's cache is q4_0 now"),
        (2, 3, "the drafter reads the last 32 tokens now"),
        (3, 2, "the drafter reads the whole conversation now"),
        (3, 4, "the cache is q8_0 now"),
        (4, 5, "nothing drafts now, the context holds 2048 tokens now"),
        (5, 4, "tiny drafts now, the context holds 4096 tokens now"),
    ],
)
def test_a_step_names_what_changed(before: int, after: int, text: str) -> None:
    """Fails when a change goes without a word, or something is said to change that did not."""
    assert difference(RUNGS[before], RUNGS[after]) == text


# --- where it starts, and where it does not fit


def test_a_ladder_starts_where_it_is_told_and_climbs() -> None:
    """Fails when a start after a crash takes what led to it, or never gets its speed back."""
    machine = Machine()
    ladder = Ladder(RUNGS, machine.build(), start=5, watch=machine.watch(patience=3), bytes_of=bytes_of)
    assert [model for model, _, _ in machine.opened] == ["fake"]
    assert on(ladder).method == "plain"
    _, notices, _ = answer(on(ladder), PROMPT, 150)
    assert ladder.rung == 0
    assert len(kinds(notices)) == 5
    assert all(text.startswith("memory is free again") for text in kinds(notices))


def test_a_rung_that_cannot_be_opened_at_the_start_is_passed_over() -> None:
    """Fails when the first DoesNotFit ends the program though a narrower rung would have run."""
    machine = Machine(memory=1700)
    ladder = Ladder(RUNGS, machine.build())
    assert ladder.rung == 5
    assert machine.weights == 0
    assert answer(on(ladder), PROMPT, 20)[0] == plainly(PROMPT, 20)


def test_nothing_stays_open_where_no_rung_fits() -> None:
    """Fails when a failed start leaks a context."""
    machine = Machine(memory=100)
    with pytest.raises(DoesNotFit, match="bytes are wanted"):
        Ladder(RUNGS, machine.build())
    assert machine.free() == 100


def test_a_climb_that_does_not_fit_goes_back_without_a_word_and_waits() -> None:
    """Fails when a failed climb loses the conversation, is tried every round, or is reported as a change."""
    tried: list[DraftModel] = []

    def refuse(draft: DraftModel) -> FakeContext:
        tried.append(draft)
        raise DoesNotFit("3200 bytes are wanted, 100 are free; use less")

    build = replace(Machine().build(), draft=refuse)
    watch = Script(["up"] * 200).watch()
    patient = replace(watch, marks=replace(watch.marks, patience=4, patience_most=64))
    ladder = Ladder([rung(), rung(choice=PLAIN)], build, start=1, watch=patient)
    said, notices, _ = answer(on(ladder), PROMPT, 100)
    assert said == plainly(PROMPT, 100)
    assert kinds(notices) == []
    # After 4 rounds, 8, 16 and 32 more; the answer ends before 64 more. Each with much room and with little.
    assert len(tried) == 2 * 4


def test_a_rung_below_that_cannot_be_opened_is_left_out() -> None:
    """Fails when one bad rung ends the descent: here its drafter is refused."""
    machine = Machine()
    build = machine.build()

    def picky(draft):
        if draft.context.kv_type == "q4_0":
            raise DrafterUnusable("no q4_0 here; use f16")
        return build.draft(draft)

    ladder = Ladder(RUNGS, replace(build, draft=picky), watch=Script(["down", "down"]).watch())
    said, _, _ = answer(on(ladder), PROMPT, 40)
    assert ladder.rung == 5
    assert said == plainly(PROMPT, 40)


def test_a_step_down_that_cannot_be_taken_is_not_tried_every_round() -> None:
    """Fails when a shortage that no step can help makes every round open and close its contexts."""
    machine = Machine()
    build = machine.build()
    tried: list[DraftModel] = []

    def once(draft: DraftModel) -> FakeContext:
        tried.append(draft)
        if draft.context.kv_type != "f16":
            raise DoesNotFit("nothing is free; use less")
        return build.draft(draft)

    rungs = [rung(choice=NARROW), rung(choice=NARROW, kv="q4_0")]
    watch = Script(["down"] * 200).watch()
    patient = replace(watch, marks=replace(watch.marks, patience=4, patience_most=64))
    ladder = Ladder(rungs, replace(build, draft=once), watch=patient)
    said, notices, steps = answer(on(ladder), PROMPT, 100)
    assert said == plainly(PROMPT, 100)
    assert kinds(notices) == []
    assert sum(draft.context.kv_type == "q4_0" for draft in tried) <= 2 * 3
    assert len(steps) > 20
    assert all(s.n_drafted > 0 for s in steps[1:-1])


def test_a_state_that_cannot_be_copied_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the conversation is lost with its blob, at either end of the copy."""
    for name in ("export_state", "import_state"):
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> bytes:
                raise DecodeFailed("the runtime refused")

            patch.setattr(FakeContext, name, refuse)
            ladder, _ = scripted("dddddu.u")
            assert answer(on(ladder), PROMPT, 60)[0] == plainly(PROMPT, 60)


def test_a_cancel_while_a_step_reads_again_leaves_an_engine_that_goes_on() -> None:
    """Fails when a stop between two rungs leaves a drafter closed and the controller asking for it."""
    ladder, _ = scripted(".d")
    engine, stop = on(Ladder([RUNGS[0], RUNGS[4]], Machine().build(), watch=ladder._watch)), [False]
    prefill = FakeContext.prefill

    def cancelled_then(self, slot, tokens, progress=None, cancelled=None):
        if self.spec.kv_type == "q8_0" and not stop[0]:
            stop[0] = True
            raise Cancelled("stopped")
        prefill(self, slot, tokens, progress, cancelled)

    FakeContext.prefill = cancelled_then
    try:
        said, _, steps = answer(engine, PROMPT, 60)
    finally:
        FakeContext.prefill = prefill
    assert steps[-1].finish == "cancelled"
    assert said == plainly(PROMPT, 60)[: len(said)]
    assert answer(engine, PROMPT, 60)[0] == plainly(PROMPT, 60)


def test_a_rung_too_short_for_the_conversation_is_left_out() -> None:
    """Fails when a step cuts what was said: 3000 tokens do not go down to a context of 2048."""
    ladder, _ = scripted("d" * 12)
    engine = on(ladder)
    prompt = [1 + i % 40 for i in range(3000)]
    assert answer(engine, prompt, 60)[0] == plainly(prompt, 60)
    assert ladder.rung == 4
    assert engine.n_ctx == 4096


@pytest.mark.parametrize(
    ("rungs", "start"),
    [(RUNGS, 6), (RUNGS[::-1], 0), ([RUNGS[0], replace(RUNGS[1], placement=Placement(3))], 0), ([], 0)],
)
def test_a_ladder_that_makes_no_sense_is_refused(rungs: list, start: int) -> None:
    """Fails when a wrong order shows as a lost conversation hours later."""
    with pytest.raises(BadSetting):
        Ladder(rungs, Machine().build(), start=start)


# --- ranks


def test_a_step_says_which_child_was_drawn() -> None:
    """Fails when learning from ranks learns wrong ones: a full chain gives a zero for each node with a child."""
    chain = Choice("model", 4, 3, 1)
    machine = Machine()
    _, _, steps = answer(on(Ladder([rung(choice=chain)], machine.build())), PROMPT, 80)
    for step in steps[1:-1]:
        full = step.n_accepted == step.n_drafted
        assert step.ranks == (0,) * step.n_accepted + (() if full else (-1,))
    assert steps[0].ranks == ()


def test_contexts_are_opened_as_asked() -> None:
    """Fails when a rung's other fields are lost on the way to the runtime."""
    asked: list[ContextSpec] = []
    build = Machine().build()
    ladder = Ladder([rung(n_ubatch=64)], replace(build, target=lambda s: [asked.append(s), build.target(s)][1]))
    assert replace(asked[0], n_ctx=4096) == ladder.configuration.target

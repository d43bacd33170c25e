"""Contexts that follow the conversation: how much is opened, when, and where memory ends (fake backend)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgespec.engine.growth import required, wanted
from edgespec.engine.ladder import Ladder
from edgespec.errors import ContextOverflow, DoesNotFit
from edgespec.memory.configuration import as_opened
from edgespec.memory.pressure import Marks, Reading, Watch
from edgespec.types import PLAIN, Choice, Notice, Prefill, Sampling, Step
from tests.engine.machine import NARROW, TREE, Machine, answer, bytes_of, on, plainly, rung

PROMPT = [1, 2, 3, 4, 5]


def targets(machine: Machine) -> list[int]:
    return [n_ctx for model, _, n_ctx in machine.opened if model == "fake"]


def drafts(machine: Machine) -> list[int]:
    return [n_ctx for model, _, n_ctx in machine.opened if model == "fake-draft"]


# --- how much


@pytest.mark.parametrize(
    ("n_history", "n_left", "n"),
    [(100, 10, 256), (100, 10**6, 768), (250, 6, 256), (250, 7, 512), (3900, 10**6, 4096), (4095, 1, 4096)],
)
def test_what_is_opened_is_what_the_turn_needs_in_whole_units(n_history: int, n_left: int, n: int) -> None:
    """Fails when a short turn takes the whole promise, or an answer of unknown length more than a grain."""
    assert wanted(rung(4096), n_history, n_left) == n


def test_what_is_wanted_always_holds_the_next_round() -> None:
    """Fails when a context is opened that the very next pass outgrows: also with passes wider than a grain."""
    for rows in (2, 32, 512):
        c = replace(rung(4096), target=replace(rung(4096).target, max_nodes=rows))
        for n_history in range(1, 4096, 37):
            for n_left in (1, 5, 300, 4096):
                assert required(c, n_history, n_left) <= wanted(c, n_history, n_left) <= 4096


@pytest.mark.parametrize(("window", "n_ctx", "n"), [(None, 768, 803), (256, 768, 295), (1000, 768, 803)])
def test_a_drafter_has_room_for_its_text_and_for_nodes_read_in_vain(window: int | None, n_ctx: int, n: int) -> None:
    """Fails when a window saves nothing, or a full tree finds no cell: 8 rows by 4 beams come on top, and
    3 tokens read ahead."""
    found = as_opened(rung(4096, TREE, window=window), n_ctx).draft
    assert found is not None
    assert found.context.n_ctx == n


# --- when


def test_a_long_answer_grows_its_contexts_and_says_what_it_would_have_said() -> None:
    """Fails when growth loses a token or comes a round too late, or the drafter's context stays behind."""
    machine = Machine()
    said, notices, _ = answer(on(Ladder([rung(4096)], machine.build())), PROMPT, 2000)
    assert said == plainly(PROMPT, 2000)
    assert targets(machine) == sorted(set(targets(machine)))
    assert drafts(machine) == [n + 35 for n in targets(machine)]
    assert [n.kind for n in notices] == ["context"] * (len(targets(machine)) - 1)
    assert len(notices) >= 3
    assert notices[0].text == f"room was made for {targets(machine)[1]} of 4096 tokens"
    assert notices[0].n_tokens > 700


def test_growth_copies_and_does_not_read_again() -> None:
    """Fails when each growth costs another prefill of all that was said, on the target or the drafter."""
    machine = Machine()
    answer(on(Ladder([rung(4096)], machine.build())), PROMPT, 2000)
    read = [context.n_prefilled for context, _ in machine.alive.values()]
    assert sum(read) <= 2 * len(PROMPT) + 8 * len(read)


def test_a_short_turn_opens_nothing_more() -> None:
    """Fails when every first answer opens its context twice."""
    machine = Machine()
    answer(on(Ladder([rung(4096)], machine.build())), PROMPT, 200)
    assert targets(machine) == [768]


def test_a_long_prompt_makes_room_before_it_is_read() -> None:
    """Fails when a prompt beyond what is open is refused, or told about after it was read."""
    machine = Machine()
    prompt = [1 + i % 40 for i in range(2000)]
    events = list(on(Ladder([rung(4096)], machine.build())).generate(prompt, Sampling(temperature=0), 20, end_ids=()))
    assert isinstance(events[0], Notice)
    assert isinstance(events[1], Prefill)
    assert targets(machine)[1] == 2048
    assert [t for e in events if isinstance(e, Step) for t in e.tokens] == plainly(prompt, 20)


@pytest.mark.parametrize("choice", [PLAIN, TREE, Choice("model", 24, 6, 8)], ids=["plain", "tree", "wide"])
def test_the_promise_is_kept_to_its_last_token(choice: Choice) -> None:
    """Fails when the last cells are refused after growth: 1000 tokens hold 5 of prompt and 995 of answer."""
    engine = on(Ladder([rung(1000, choice)], Machine().build()))
    said, _, steps = answer(engine, PROMPT, None)
    assert engine.n_ctx == 1000
    assert len(said) == 995
    assert steps[-1].finish == "length"


def test_a_prompt_beyond_the_promise_is_refused_as_ever() -> None:
    """Fails when growth knows no end."""
    with pytest.raises(ContextOverflow, match=r"1002 tokens.*context size of 1000"):
        answer(on(Ladder([rung(1000)], Machine().build())), [1] * 1001)


def test_a_second_conversation_uses_what_is_open() -> None:
    """Fails when room that is there is made again, or the old conversation is carried into the new one."""
    machine = Machine()
    engine = on(Ladder([rung(4096)], machine.build()))
    answer(engine, PROMPT, 2000)
    before = list(machine.opened)
    assert answer(engine, [9, 8, 7], 500)[0] == plainly([9, 8, 7], 500)
    assert machine.opened == before


# --- where memory ends


def test_a_conversation_that_outgrows_its_rung_goes_down_before_it_fails() -> None:
    """Fails when an answer ends though giving up the drafter would have made room for it."""
    machine = Machine(memory=10_000)
    ladder = Ladder([rung(4096), rung(4096, PLAIN)], machine.build(), watch=machine.watch(), bytes_of=bytes_of)
    said, notices, _ = answer(on(ladder), PROMPT, 1200)
    assert said == plainly(PROMPT, 1200)
    assert ladder.rung == 1
    step = next(n for n in notices if n.kind == "ladder")
    assert step.text.endswith("wanted): nothing drafts now")


def test_growth_that_is_refused_by_the_runtime_goes_down_too() -> None:
    """Fails when only a prediction can save the answer: here nobody predicts, and opening is tried."""
    machine = Machine(memory=9000)
    ladder = Ladder([rung(4096), rung(4096, PLAIN)], machine.build())
    said, notices, _ = answer(on(ladder), PROMPT, 1200)
    assert said == plainly(PROMPT, 1200)
    assert [n.text for n in notices if n.kind == "ladder"] == ["memory is short: nothing drafts now"]


@pytest.mark.parametrize("predicted", [True, False])
def test_where_nothing_helps_the_answer_so_far_is_there_and_the_error_has_both_numbers(predicted: bool) -> None:
    """Fails when tokens are lost with the memory, or the engine with them: a shorter turn must still be answered."""
    machine = Machine(memory=8000)
    ladder = Ladder(
        [rung(4096), rung(4096, NARROW, kv="q4_0"), rung(4096, PLAIN)],
        machine.build(),
        watch=machine.watch(),
        bytes_of=bytes_of if predicted else None,
    )
    engine, said = on(ladder), []
    events = engine.generate(PROMPT, Sampling(temperature=0, seed=9), 3000, end_ids=())
    with pytest.raises(DoesNotFit, match=r"needs \d+ MiB .* MiB is free on this machine; close other programs"):
        for event in events:
            said += event.tokens if isinstance(event, Step) else ()
    assert len(said) > 500
    assert said == plainly(PROMPT, 3000)[: len(said)]
    assert answer(engine, PROMPT, 100)[0] == plainly(PROMPT, 100)


def test_growth_leaves_the_low_mark_free() -> None:
    """Fails when room is made that the next reading takes back."""
    free = [10_000]
    machine = Machine()
    watch = Watch(lambda: Reading(free[0]), Marks(9000, 9000))
    ladder = Ladder([rung(4096), rung(4096, PLAIN)], machine.build(), watch=watch, bytes_of=bytes_of)
    answer(on(ladder), PROMPT, 1000)
    assert ladder.rung == 1


def test_a_conversation_that_has_no_room_for_its_copy_is_read_again() -> None:
    """Fails when a context that would fit is refused for a copy that need not be: 2048 tokens are 8192 bytes, which is
    all there is, so nothing may lie beside them on the way."""
    machine = Machine()
    ladder = Ladder(
        [rung(4096, PLAIN)], machine.build(), watch=machine.watch(), bytes_of=bytes_of, limit_bytes=8 * 1024
    )
    said, _, _ = answer(on(ladder), PROMPT, 1900)
    assert said == plainly(PROMPT, 1900)
    assert max(n_ctx for _, _, n_ctx in machine.opened) <= 2048


def test_a_limit_holds_whatever_the_machine_has() -> None:
    """Fails when a budget bounds the plan and not what grows later."""
    machine = Machine()
    ladder = Ladder([rung(4096, PLAIN)], machine.build(), watch=machine.watch(), bytes_of=bytes_of, limit_bytes=6000)
    with pytest.raises(DoesNotFit, match="of memory beyond what it has"):
        answer(on(ladder), PROMPT, 3000)
    assert max(n_ctx * 4 for _, _, n_ctx in machine.opened) <= 6000

"""What a mixture learns from its rounds, and when."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgespec.speculation.drafters.mix import MixDrafter
from edgespec.speculation.drafters.sources import Guess
from edgespec.speculation.tree import single
from edgespec.types import Choice, Rows, Verdict
from tests.speculation.drafters.mixing import (
    MODEL,
    Says,
    draft,
    made,
    reader,
)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("names", ["sr", "srm"])
def test_drafting_has_no_lasting_effect_on_what_is_learnt(names: str, temperature: float) -> None:
    """A round may be given up between draft and commit. Fails when a draft teaches, or a second draft of the same
    history is another one."""
    drafter, learners, _ = made(names)
    text = [1, 2, 3, 4, 1, 2, 3]
    learners[0].learn(np.array(text, np.int32), single(3), Rows(MODEL.table[:1]))
    learnt, table = json.dumps(drafter.to_dict()), learners[0].arrays()["keys"].copy()
    trees = [draft(drafter, text, temperature=temperature) for _ in range(4)]
    assert all(t.token.tolist() == trees[0].token.tolist() for t in trees)
    assert all(t.draft_logprob.tolist() == trees[0].draft_logprob.tolist() for t in trees)
    assert json.dumps(drafter.to_dict()) == learnt
    np.testing.assert_array_equal(learners[0].arrays()["keys"], table)


def test_a_commit_without_a_draft_is_nothing() -> None:
    """The drafter was forgotten in between, or the round was told already. Fails when that ends the answer, or a round
    counts twice."""
    drafter, *_ = made("srm")
    text, verdict = np.array([1, 2, 1, 2, 3], np.int32), Verdict((0,), (3,), None)
    draft(drafter, text[:-1])
    drafter.forget()
    drafter.commit(text, verdict)
    assert drafter.to_dict() == made("srm")[0].to_dict()
    draft(drafter, text[:-1])
    drafter.commit(text, verdict)
    once = json.dumps(drafter.to_dict())
    drafter.commit(text, verdict)
    assert json.dumps(drafter.to_dict()) == once


def test_a_source_that_misleads_loses_its_say_over_the_drafter() -> None:
    """It is always wrong, beside a drafter that is always right. Fails when it goes on to cost rows: in the
    end the first child is nearly always the drafter's."""
    drafter = MixDrafter([Says({(): Guess(2, {47: 0.9})})], reader(MODEL)[0])
    text = [1, 2, 3]
    first: list[bool] = []
    for _ in range(250):
        tree = draft(drafter, text, Choice("mix", 4, 1, 3))
        right = int(MODEL.table[MODEL.row_index(text)].argmax())
        if right == 47:
            text = [*text, 46]
            continue
        first.append(int(tree.token[1]) == right)
        text = [*text, right]
        drafter.commit(np.array(text, np.int32), Verdict((0,), (right,), None))
    assert sum(first[:10]) < 5
    assert sum(first[-50:]) >= 45


def test_greedy_and_sampled_answers_are_learnt_apart() -> None:
    """Fails when noise at temperature 0.8 teaches what drafts at 0 are worth."""
    drafter, *_ = made("sr")
    before = drafter.to_dict()
    before = json.loads(json.dumps(before))
    draft(drafter, [1, 2, 3, 1, 2], temperature=0.8)
    drafter.commit(np.array([1, 2, 3, 1, 2, 3], np.int32), Verdict((0,), (3,), None))
    after = drafter.to_dict()
    assert after["greedy"] == before["greedy"]
    assert after["sampled"] != before["sampled"]


def test_what_was_learnt_survives_a_file() -> None:
    """Fails when the next session begins anew."""
    drafter, *_ = made("srm")
    text = [1, 2, 3, 4]
    for i in range(60):
        draft(drafter, text, temperature=0.8 * (i % 2))
        text = [*text, 1 + i % 5]
        drafter.commit(np.array(text, np.int32), Verdict((0,), (text[-1],), None))
    again, *_ = made("srm")
    again.take(json.loads(json.dumps(drafter.to_dict())))
    assert again.to_dict() == drafter.to_dict() != made("srm")[0].to_dict()


@pytest.mark.parametrize(
    "data",
    [None, 7, [], {"greedy": 7}, {"greedy": {}}, {"sampled": {"blend": 1, "evidence": {"a": 2}}}, {"greedy": [1, 2]}],
)
def test_nonsense_counts_as_nothing_learnt(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises."""
    drafter, *_ = made("sr")
    before = json.dumps(drafter.to_dict())
    drafter.take(data)
    assert json.dumps(drafter.to_dict()) == before

"""`--verify rejection` on the demo pair: it answers, it says what it changes, and a seed still means one text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Command, sentence

ASK = ("run", "-p", "Tell me about a river.", "--max-tokens", "32", "--seed", "3", "--method", "model", "--nodes", "8")


def answer(demo: Command, *flags: str) -> dict[str, Any]:
    outcome = demo(*ASK, *flags, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found: dict[str, Any] = json.loads(outcome.out)
    return found


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_seed_means_one_text_that_drafts_helped_to_say(demo: Command, shape: str) -> None:
    """Fails when the rule is not wired through, or anything but the seed decides. Each is the first answer of a load:
    trees follow what earlier answers taught, and under this rule the words follow the trees (docs/rejection.md)."""
    flags = ("--verify", "rejection", "--shape", shape)
    one, matched, other = answer(demo, *flags), answer(demo, "--shape", shape), answer(demo, *flags)
    assert one["tokens"] == other["tokens"] != matched["tokens"]
    assert one["timings"]["draft_n_accepted"] > 0
    assert [line["reason"] for line in one["plan"] if line["line"] == "verify"] == [
        "asked for; the same seed gives another text than with match, and another one for every shape of draft"
    ]
    assert not [line for line in matched["plan"] if line["line"] == "verify"]


def test_greedy_text_is_the_same_under_both_rules(demo: Command) -> None:
    """Fails when a rule for sampled text changes what is said without sampling."""
    flags = ("--temperature", "0", "--exact", "--verify")
    rules = [answer(demo, *flags, rule)["tokens"] for rule in ("match", "rejection")]
    assert rules[0] == rules[1]


def test_a_rule_that_is_unknown_is_refused(demo: Command) -> None:
    """Fails when it takes loading a model to find out."""
    assert "--verify maybe is unknown" in sentence(demo(*ASK, "--verify", "maybe"), 2)

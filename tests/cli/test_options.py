"""Groups of flags: a verb names a group, the command line has its flags."""

from __future__ import annotations

import inspect

import pytest

from edgespec.cli import options as o
from edgespec.cli.bench import bench
from edgespec.cli.chat import chat
from edgespec.cli.run import run
from edgespec.errors import BadSetting
from edgespec.settings import Settings
from edgespec.types import Sampling

CALLS: list[tuple[o.Loading, o.Answering, str]] = []


@o.flat
def verb(loading: o.Loading, answering: o.Answering = o.Answering(seed=7), method: o.Method = "auto") -> int:  # noqa: B008
    CALLS.append((loading, answering, method))
    return 3


def test_a_group_stands_as_its_flags_with_its_defaults() -> None:
    """Fails when a flag is lost, or a verb's own default gives way to the group's."""
    flags = inspect.signature(verb).parameters
    assert {"model", "kv", "temperature", "seed", "method"} <= set(flags)
    assert not {"loading", "answering"} & set(flags)
    assert (flags["kv"].default, flags["seed"].default, flags["method"].default) == (None, 7, "auto")


def test_the_verb_gets_what_was_given_as_groups() -> None:
    """Fails when a value lands in another flag."""
    given = {name: p.default for name, p in inspect.signature(verb).parameters.items()}
    assert verb(**{**given, "model": "m", "top_k": 9, "method": "plain"}) == 3
    loading, answering, method = CALLS.pop()
    assert loading == o.Loading(model="m")
    assert answering == o.Answering(top_k=9, seed=7)
    assert method == "plain"


@pytest.mark.parametrize("one", [chat, run, bench])
def test_the_verbs_that_answer_share_their_flags(one: object) -> None:
    """Fails when a flag works with one verb and is unknown to another."""
    shared = {*o.Loading.__dataclass_fields__, *o.Answering.__dataclass_fields__}
    assert shared <= set(inspect.signature(one).parameters)  # type: ignore[arg-type]


def test_flags_reach_the_settings_they_are_named_after() -> None:
    """Fails when two of them are swapped on the way."""
    loading = o.Loading("m", "d", 4, 3, 512, "q8_0", True, 2, "3KiB")
    assert loading.settings("model", "chain") == Settings("m", "d", "model", "chain", 4, 3, 512, "q8_0", True, 2, 3072)
    answering = o.Answering(None, 5, 0.5, 6, 0.7, 0.8, 1.1, 9)
    assert answering.sampling() == Sampling(0.5, 6, 0.7, 0.8, 1.1, seed=9)


def test_a_budget_that_is_no_size_is_refused() -> None:
    """Fails when it reaches the planner as text, or counts as no budget."""
    assert o.Loading().settings().budget is None
    with pytest.raises(BadSetting, match="--budget '6GB5' is no size"):
        o.Loading(budget="6GB5").settings()
    with pytest.raises(BadSetting, match="--budget is 0"):
        Settings(budget=0)

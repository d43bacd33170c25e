"""What --methods names."""

from __future__ import annotations

import pytest

from edgespec.bench.methods import parse_methods
from edgespec.errors import BadSetting
from edgespec.settings import Settings

BASE = Settings(model="m", draft="d", nodes=7, threads=2)


def test_names_stand_for_sources_shapes_and_rows() -> None:
    """Fails when a name drafts otherwise than it says, or loses what all methods share."""
    found = parse_methods("chain,tree@9,model:chain@4,auto", BASE)
    assert {n: (s.method, s.shape, s.nodes) for n, s in found.items()} == {
        "plain": ("plain", "auto", 7),
        "chain": ("model", "chain", 7),
        "tree@9": ("model", "tree", 9),
        "model:chain@4": ("model", "chain", 4),
        "auto": ("auto", "auto", 7),
    }
    assert {s.draft for n, s in found.items() if n != "plain"} == {"d"}
    assert {s.threads for s in found.values()} == {2}


def test_plain_comes_first_and_always() -> None:
    """Fails when there is nothing to compare with."""
    assert list(parse_methods("tree,plain", BASE)) == ["plain", "tree"]
    assert list(parse_methods("tree", BASE)) == ["plain", "tree"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("plain,chian", "did you mean chain"),
        ("tre", "did you mean tree"),
        ("zzz", "the known ones are auto, plain"),
        ("", "names none"),
        ("chain,chain", "names chain twice"),
        ("model:star", "shape of model:star is star"),
        ("plain@4", "neither a shape nor rows"),
        ("auto:tree", "neither a shape nor rows"),
        ("tree@", "asks for no rows"),
        ("tree@many", "asks for many rows"),
        ("tree@²", "asks for ² rows"),
        ("tree:4", "write tree, or tree@8"),
        ("tree@0", "--nodes is 0"),
    ],
)
def test_what_means_nothing_is_refused_with_the_nearest_name(text: str, what: str) -> None:
    """Fails when a slip is measured as something else."""
    with pytest.raises(BadSetting, match=what):
        parse_methods(text, BASE)

"""Every drafter that reads a model runs on a trimmed one as it is, and nothing it drafts changes what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.assemble import open_assistant
from edgespec.settings import Settings
from edgespec.types import Answer, Sampling
from tests.cut import DEMO, cut

SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=0.8, seed=4))
TURNS = [{"role": "user", "content": "Tell me a long story about a river, and count to ten: 1, 2, 3."}]


def said(settings: Settings) -> list[Answer]:
    with open_assistant(settings) as assistant:
        return [assistant.answer(TURNS, sampling, max_tokens=40) for sampling in SAMPLINGS]


@pytest.fixture(scope="module")
def plain() -> list[Answer]:
    return said(Settings(method="plain", exact=True, context=512, remember=False))


@pytest.mark.parametrize("k", [272, 2048])
@pytest.mark.parametrize(
    ("method", "drafter"),
    [("model", "demo-draft"), ("mix", "demo-draft"), ("parallel", "demo-draft-parallel")],
)
def test_a_text_is_the_plain_one_whatever_the_head_lacks(
    tmp_path: Path, plain: list[Answer], method: str, drafter: str, k: int
) -> None:
    """Fails when a column is taken for the id of another token, or a mask or a copied token that the head lacks cannot
    be read. 272 rows are hardly more than bytes: nearly all that is read goes in as rows."""
    path = cut(DEMO / f"{drafter}.gguf", tmp_path / "t.gguf", k).path
    found = said(Settings(method=method, draft=str(path), nodes=6, exact=True, context=512, remember=False))
    assert [answer.tokens for answer in found] == [answer.tokens for answer in plain]
    assert sum(answer.draft_n for answer in found) > 0
    assert sum(answer.draft_n_accepted for answer in found) > 0
    assert {answer.method for answer in found} == {method}


def test_sampled_drafts_have_probabilities_of_kept_tokens(tmp_path: Path) -> None:
    """Fails when rejection looks a draft's chance up under another id: next to nothing would be accepted."""
    path = cut(DEMO / "demo-draft.gguf", tmp_path / "t.gguf", 2048).path
    found = said(Settings(method="model", draft=str(path), nodes=4, verify="rejection", context=512, remember=False))
    assert sum(answer.draft_n_accepted for answer in found) > 4

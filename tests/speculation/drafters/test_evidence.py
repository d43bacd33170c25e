"""Evidence of sources beside a drafter's own scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgespec.speculation.drafters import evidence as module
from edgespec.speculation.drafters.evidence import Evidence
from edgespec.speculation.drafters.sources import NOTHING, Guess
from edgespec.speculation.sampling import log_softmax

# Grades of no weight, a weak one and one that is sure of itself.
NONE, WEAK, STRONG = 0, 1, 2
TRUSTS = ((0.0, 0.1, 1.5), (0.0, 0.1, 1.5))
IDS = np.array([4, 7, 9], np.int32)
SCORE = np.array([-0.5, -1.5, -3.0], np.float32)


def said(grade: int, *tokens: int, chance: float = 0.9) -> tuple[Guess, Guess]:
    return Guess(grade, dict.fromkeys(tokens, chance)), NOTHING


def test_weight_0_leaves_the_drafter_alone() -> None:
    """Fails when a source that does not help changes an order or a score, or adds a token."""
    found = Evidence(((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    ids, score, evidence = found.add(IDS, SCORE, said(STRONG, 9, 30))
    assert ids.tolist() == IDS.tolist()
    assert score == pytest.approx(SCORE)
    assert evidence.shape == (2, 3)


def test_nothing_said_leaves_the_drafter_alone() -> None:
    """Fails when a token that no source named is pushed down for it."""
    ids, score, evidence = Evidence(TRUSTS).add(IDS, SCORE, (NOTHING, NOTHING))
    assert (ids.tolist(), score.tolist()) == (IDS.tolist(), SCORE.tolist())
    assert not evidence.any()


def test_what_is_said_raises_the_token_and_no_other() -> None:
    """Fails when evidence lands on another candidate's score."""
    _, score, _ = Evidence(TRUSTS).add(IDS, SCORE, said(WEAK, 9))
    assert score[:2] == pytest.approx(SCORE[:2])
    assert score[2] > SCORE[2]


def test_a_likelier_word_is_more_evidence_and_two_are_more_than_one() -> None:
    """Fails when the chance does not count, or the second source's word is lost."""

    def raised(*guesses: Guess) -> float:
        return float(Evidence(TRUSTS).add(IDS, SCORE, guesses)[1][2] - SCORE[2])

    little, much = Guess(WEAK, {9: 0.2}), Guess(WEAK, {9: 0.9})
    assert 0 < raised(little, NOTHING) < raised(much, NOTHING)
    assert raised(much, much) == pytest.approx(2 * raised(much, NOTHING))


def test_an_unlisted_token_takes_part_only_where_a_source_is_strong() -> None:
    """Fails when weak evidence crowds out the drafter's own candidates, or strong evidence is not heard."""
    weak, *_ = Evidence(TRUSTS).add(IDS, SCORE, said(WEAK, 30))
    strong, score, evidence = Evidence(TRUSTS).add(IDS, SCORE, said(STRONG, 30))
    assert 30 not in weak.tolist()
    assert strong.tolist() == [4, 7, 9, 30]
    assert strong.dtype == np.int32
    assert score[:3] == pytest.approx(SCORE)
    assert evidence[0, 3] > 0


def test_an_unlisted_token_that_two_sources_name_comes_once() -> None:
    """Fails when siblings come out twice."""
    both = Guess(STRONG, {30: 0.9, 4: 0.05}), Guess(STRONG, {30: 0.9})
    ids, _, evidence = Evidence(TRUSTS).add(IDS, SCORE, both)
    assert ids.tolist() == [4, 7, 9, 30]
    assert (evidence[:, 3] > 0).all()


def test_what_a_cut_took_away_stays_away() -> None:
    """Top-p left two of three. Fails when -inf comes back as a candidate whose score is not a number."""
    cut = np.array([-0.5, -1.5, -np.inf], np.float32)
    ids, score, _ = Evidence(TRUSTS).add(IDS, cut, (NOTHING, NOTHING))
    assert ids.tolist() == [4, 7]
    assert np.isfinite(score).all()


def test_a_source_that_is_right_gains_and_one_that_is_wrong_loses() -> None:
    """The gradient's sign. Fails when it points down the likelihood, or a source that was silent moves."""
    for drawn, sign in ((0, 1), (1, -1)):
        found = Evidence(((0.0, 0.5), (0.0, 0.5)))
        guesses = Guess(1, {4: 0.9}), NOTHING
        ids, score, evidence = found.add(IDS, SCORE, guesses)
        found.observe(guesses, evidence, np.exp(log_softmax(score)), ids.tolist().index(IDS[drawn]))
        assert np.sign(found.weights[0][1] - 0.5) == sign
        assert found.weights[0][0] == 0.0
        assert found.weights[1] == [0.0, 0.5]


def test_the_step_is_along_the_gradient_of_the_likelihood() -> None:
    """Against finite differences. Fails when the expectation is taken of the wrong distribution."""
    guesses = Guess(1, {4: 0.9, 9: 0.3}), Guess(1, {7: 0.6})

    def likelihood(w: list[list[float]], drawn: int) -> float:
        found = Evidence(((0.0, w[0][1]), (0.0, w[1][1])))
        return float(log_softmax(found.add(IDS, SCORE.astype(np.float64), guesses)[1])[drawn])

    for drawn in range(3):
        w = [[0.0, 0.5], [0.0, 0.4]]
        found = Evidence(((0.0, 0.5), (0.0, 0.4)))
        _, score, evidence = found.add(IDS, SCORE.astype(np.float64), guesses)
        found.observe(guesses, evidence, np.exp(log_softmax(score)), drawn)
        for source in (0, 1):
            up = [list(x) for x in w]
            up[source][1] += 1e-5
            slope = (likelihood(up, drawn) - likelihood(w, drawn)) / 1e-5
            assert found.weights[source][1] - w[source][1] == pytest.approx(module.RATE * slope, rel=1e-2, abs=1e-7)


def test_weights_stay_between_nothing_and_the_most() -> None:
    """Fails when a source that is often wrong speaks against what it names, or one that is right drowns the drafter."""
    for drawn, bound in ((0, module.MOST), (2, 0.0)):
        found, guesses = Evidence(((0.0, 0.5), (0.0, 0.5))), (Guess(1, {4: 0.9}), NOTHING)
        for _ in range(3000):
            *_, evidence = found.add(IDS, SCORE, guesses)
            found.observe(guesses, evidence, np.full(3, 1 / 3), drawn)
        assert found.weights[0][1] == bound


def test_sure_is_what_is_likely_and_trusted() -> None:
    """A node whose token a source is sure of needs no row. Fails when a chance alone, or a trust alone, is enough."""
    found = Evidence(TRUSTS)
    assert found.sure(said(STRONG, 4, chance=0.98))
    assert found.sure((NOTHING, Guess(STRONG, {4: 0.98})))
    assert not found.sure(said(WEAK, 4, chance=0.98))
    assert not found.sure(said(STRONG, 4, chance=0.05))
    assert not found.sure((NOTHING, NOTHING))


def test_kept_weights_come_back() -> None:
    """Fails when the next session begins anew."""
    found, again = Evidence(TRUSTS), Evidence(TRUSTS)
    found.weights[0][1] = 0.7
    again.take(json.loads(json.dumps(found.weights)))
    assert again.weights == found.weights
    assert again.weights[0] is not found.weights[0]


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        {},
        [],
        [[0.0, 0.1, 1.5]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, 1.5], 7],
        [[0.0, 0.1, 1.5], [0.0, 0.1]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, -0.5]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, 99.0]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, float("nan")]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, "1"]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, True]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, None]],
        [[0.0, 0.1, 1.5], [0.0, 0.1, 10**400]],
    ],
)
def test_nonsense_counts_as_nothing_learnt(data: object) -> None:
    """A file edited by hand, or another version's. Fails when it raises, or is believed."""
    found = Evidence(TRUSTS)
    found.take(data)
    assert found.weights == Evidence(TRUSTS).weights

"""The processed distribution and the noise."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.errors import BadSetting, DecodeFailed
from edgespec.speculation.sampling import Noise, Process, draw, log_softmax, top_k
from edgespec.types import Sampling

NOTHING = np.zeros(0, np.int32)
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def reference(s: Sampling, row: np.ndarray, recent: list[int]) -> dict[int, float]:
    """The distribution by the plainest means: every step over the whole row, in llama.cpp's order."""
    logits = row.astype(np.float64).copy()
    for token, bias in s.logit_bias:
        logits[token] += bias
    for token in set(recent):
        logits[token] = logits[token] * s.repeat_penalty if logits[token] <= 0 else logits[token] / s.repeat_penalty
        logits[token] -= recent.count(token) * s.frequency_penalty + s.presence_penalty
    order = sorted(range(len(row)), key=lambda i: (-logits[i], i))
    if s.top_k:
        order = order[: s.top_k]
    probs = np.exp(logits[order] - logits[order[0]])
    probs /= probs.sum()
    if s.top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(probs), s.top_p)) + 1]
    if s.min_p:
        order = [i for i in order if logits[i] >= logits[order[0]] + np.log(s.min_p)]
    scaled = np.exp((logits[order] - logits[order[0]]) / s.temperature)
    return dict(zip(order, scaled / scaled.sum(), strict=True))


@pytest.mark.parametrize("n", [50, 1023, 1024, 8192, 10_007])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_top_k_is_the_head_of_a_full_sort(n: int, k: int) -> None:
    """Fails when a block that can matter is skipped, at lengths that do and do not divide into blocks."""
    rows = np.random.default_rng(n + k).standard_normal((5, n)).astype(np.float32)
    rows[3, :60] = rows[3, 0]  # equal values
    ids, values = top_k(rows, k)
    for row, found, value in zip(rows, ids, values, strict=True):
        expected = np.lexsort((np.arange(n), -row))[:k]
        assert found.tolist() == expected.tolist()
        assert value.tolist() == row[expected].tolist()


def test_top_k_finds_maxima_crowded_into_one_block() -> None:
    """Fails when a block is trusted to hold only one of the best."""
    row = np.zeros((1, 8192), np.float32)
    crowd = np.arange(5, 8192, 203)[:30]
    row[0, crowd] = np.arange(1, 31)
    assert set(top_k(row, 30)[0][0].tolist()) == set(crowd.tolist())


@pytest.mark.parametrize("n", [4, 5000])
@pytest.mark.parametrize("k", [1, 3])
def test_a_row_that_is_not_a_number_is_refused(n: int, k: int) -> None:
    """Fails when a damaged model's output is drawn from as if it meant something."""
    for at in (slice(None), slice(1, 2)):
        row = np.zeros((1, n), np.float32)
        row[0, at] = np.nan
        with pytest.raises(DecodeFailed, match="damaged"):
            top_k(row, k)


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    """Fails when logits divided by it overflow to infinities that cannot be told apart."""
    row = np.array([[1.0, 3.0, 2.0]], np.float32)
    assert Process(Sampling(temperature=1e-40))(NOTHING, [[]], row).ids.tolist() == [[1]]


SETTINGS = [
    Sampling(),
    Sampling(temperature=1.7, **OFF),
    Sampling(temperature=0.5, top_k=0, top_p=0.8, min_p=0.0),
    Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.2),
    Sampling(temperature=1.0, top_k=0, top_p=0.99, min_p=0.001),
    Sampling(temperature=0.9, top_k=5, top_p=0.6, min_p=0.1),
    Sampling(temperature=0.8, repeat_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2),
    Sampling(temperature=0.8, repeat_penalty=0.7, penalty_last_n=3),
    Sampling(temperature=0.8, logit_bias=((3, 5.0), (7, float("-inf")))),
]


@pytest.mark.parametrize("n", [60, 9000])
@pytest.mark.parametrize("sampling", SETTINGS, ids=range(len(SETTINGS)))
def test_the_distribution_equals_the_plain_reference(sampling: Sampling, n: int) -> None:
    """Fails when a cut is applied in another order, or to another mass, than llama.cpp's chain does."""
    rng = np.random.default_rng(n)
    rows = (rng.standard_normal((4, n)) * 3).astype(np.float32)
    history = np.array([1, 2, 2, 3, 9, 9, 9, 4], np.int32)
    path = [4, 5]
    dist = Process(sampling)(history, [path] * 4, rows)
    recent = [*history.tolist(), *path][-sampling.penalty_last_n :]
    for row, ids, logprob in zip(rows, dist.ids, dist.logprob, strict=True):
        expected = reference(sampling, row, recent if Process(sampling).edits else [])
        found = {int(i): float(np.exp(lp)) for i, lp in zip(ids, logprob, strict=True) if lp > -np.inf}
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, abs=1e-5)


def test_penalties_see_the_drafted_path() -> None:
    """Fails when a token drafted twice on one path is penalised as if it had not been said yet."""
    row = np.zeros((1, 8), np.float32)
    row[0, 3] = 1.0
    process = Process(Sampling(temperature=0, presence_penalty=2.0))
    assert process(NOTHING, [[]], row).ids[0, 0] == 3
    assert process(NOTHING, [[3]], row).ids[0, 0] != 3
    assert row[0, 3] == 1.0


def test_columns_of_a_trimmed_head_are_named_by_its_ids() -> None:
    """Fails when a column number is taken for a token id, also under bias and penalties."""
    ids = np.array([50, 7, 30], np.int32)
    row = np.array([[0.0, 2.0, 1.0]], np.float32)
    sampling = Sampling(temperature=0, logit_bias=((30, 5.0),), presence_penalty=9.0)
    assert Process(Sampling(temperature=0))(NOTHING, [[]], row, ids).ids[0, 0] == 7
    assert Process(sampling)(NOTHING, [[]], row, ids).ids[0, 0] == 30
    assert Process(sampling)(NOTHING, [[30]], row, ids).ids[0, 0] == 7


def test_the_noise_is_a_function_of_seed_position_and_id_alone() -> None:
    """Fails when the noise of an id depends on which others are asked for, or on the order of calls."""
    whole = Noise(5).gumbel([7], np.arange(100, dtype=np.int32)[None])
    part = Noise(5).gumbel([3, 7], np.array([[1, 2], [40, 99]], np.int32))
    assert part[1].tolist() == whole[0, [40, 99]].tolist()
    for other in (Noise(6).gumbel([7], np.array([[40]], np.int32)), Noise(5).gumbel([8], np.array([[40]], np.int32))):
        assert other[0, 0] != whole[0, 40]


def test_the_noise_has_the_moments_of_gumbel() -> None:
    """Fails when the generator is biased: mean Euler's constant, variance pi^2/6, neighbours uncorrelated."""
    g = Noise(1).gumbel(list(range(400)), np.arange(500, dtype=np.int32)[None].repeat(400, 0))
    assert g.mean() == pytest.approx(0.5772, abs=0.01)
    assert g.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    for a, b in ((g[:, 1:], g[:, :-1]), (g[1:], g[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_draws_follow_the_distribution() -> None:
    """Fails when argmax(log target_probs + g) is not an exact draw (chi-square, 7 degrees of freedom, p > 0.001)."""
    row = np.linspace(0, 2.5, 8).astype(np.float32)[None]
    dist = Process(Sampling(temperature=1.0, **OFF))(NOTHING, [[]], row)
    drawn = np.bincount([draw(dist, Noise(s), 3) for s in range(20_000)], minlength=8)
    expected = np.exp(log_softmax(row[0])) * 20_000
    assert ((drawn - expected) ** 2 / expected).sum() < 24.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"min_p": -1.0},
        {"repeat_penalty": 0.0},
        {"seed": -1},
        {"logit_bias": ((-2, 1.0),)},
    ],
)
def test_a_setting_out_of_range_is_named_with_its_bound(wrong: dict[str, float]) -> None:
    """Fails when a bad value goes through to the first draw."""
    with pytest.raises(BadSetting, match="must be"):
        Sampling(**wrong)

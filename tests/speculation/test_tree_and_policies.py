"""Growing trees: the best prefixes, and the limits."""

from __future__ import annotations

import numpy as np
import pytest

from edgespec.speculation.policies import Children, Limits, grow
from edgespec.speculation.tree import GrowingTree, chain, single

WIDTH = 6


def logprobs_after(path: tuple[int, ...]) -> np.ndarray:
    """A made-up drafter: log-probabilities of WIDTH tokens after a path."""
    rng = np.random.default_rng([7, *path])
    x = rng.standard_normal(WIDTH) * 1.5
    return x - np.log(np.exp(x).sum())


class Reader:
    """Reads waves of the made-up drafter and notes what was asked."""

    def __init__(self, tree: GrowingTree, width: int) -> None:
        self.tree, self.width, self.waves = tree, width, []

    def __call__(self, nodes: list[int]) -> Children:
        self.waves.append(list(nodes))
        logprob = np.array([logprobs_after(tuple(self.tree.path_tokens(n))) for n in nodes])
        order = np.argsort(-logprob, axis=1)[:, : self.width]
        return Children(order, np.take_along_axis(logprob, order, axis=1))


def grown(limits: Limits, lead: tuple[int, ...] = (99,)):
    tree = GrowingTree(lead)
    reader = Reader(tree, limits.width)
    cut, places = grow(tree, reader, limits)
    return cut, places, reader


def prefixes(tree) -> set[tuple[int, ...]]:
    paths = {0: ()}
    for node in range(1, len(tree)):
        paths[node] = (*paths[int(tree.parent[node])], int(tree.token[node]))
    return set(paths.values())


def best_prefixes(n: int, depth: int) -> set[tuple[int, ...]]:
    """The n likeliest prefixes by exhaustion: one node at a time, always the likeliest not yet taken."""
    taken, open_ = set(), {(): 0.0}
    while len(taken) < n:
        path = max(open_, key=lambda p: open_[p])
        score = open_.pop(path)
        taken.add(path)
        if len(path) < depth:
            open_.update({(*path, t): score + float(lp) for t, lp in enumerate(logprobs_after(path))})
    return taken


@pytest.mark.parametrize("rows", [2, 4, 8, 16, 64, 256])
@pytest.mark.parametrize("n_beams", [1, 4, 32])
def test_growth_finds_exactly_the_most_probable_prefixes(rows: int, n_beams: int) -> None:
    """Fails when a wave leaves out a node whose child belongs into the tree, however many are read at a time."""
    tree, _, _ = grown(Limits(rows, depth=12, width=WIDTH, n_leaves=255, n_beams=n_beams, n_waves=1000))
    assert prefixes(tree) == best_prefixes(rows, 12)


def test_a_tree_is_breadth_first_with_parents_in_front() -> None:
    """Fails when a runtime would meet a child before its parent, or positions that fall inside a sequence."""
    tree, places, _ = grown(Limits(40, depth=12, width=WIDTH, n_leaves=255))
    assert (np.diff(tree.depth) >= 0).all()
    assert (tree.parent[1:] < np.arange(1, 40)).all()
    assert tree.depth[1:].tolist() == (tree.depth[tree.parent[1:]] + 1).tolist()
    assert (tree.draft_logprob[1:] <= tree.draft_logprob[tree.parent[1:]]).all()
    assert len(set(places)) == 40


@pytest.mark.parametrize(("depth", "width", "rows"), [(3, 6, 64), (20, 1, 9), (20, 2, 20)])
def test_depth_and_width_are_kept(depth: int, width: int, rows: int) -> None:
    """Fails when a limit is off by one."""
    tree, _, _ = grown(Limits(rows, depth, width, n_leaves=255))
    assert tree.depth.max() <= depth
    assert len(tree) <= rows
    assert np.bincount(tree.parent[1:]).max() <= width


@pytest.mark.parametrize("n_leaves", [1, 3, 10])
def test_leaves_and_drafter_tips_are_bounded(n_leaves: int) -> None:
    """Fails when a tree asks for more sequences than a context has."""
    tree, _, reader = grown(Limits(60, depth=12, width=WIDTH, n_leaves=n_leaves, n_beams=8))
    assert len(tree) - len(np.unique(tree.parent[1:])) - 1 <= n_leaves
    read = [n for wave in reader.waves for n in wave]
    parents = reader.tree.parent
    assert len(set(read) - {int(parents[n]) for n in read}) <= n_leaves


def test_unlikely_nodes_are_not_drafted() -> None:
    """Fails when rows are spent on nodes below the floor."""
    tree, _, _ = grown(Limits(200, depth=12, width=WIDTH, n_leaves=255, row_prices=(0.0, 0.05)))
    assert np.exp(tree.draft_logprob.min()) >= 0.05
    assert 1 < len(tree) < 200


def test_a_node_pays_for_the_row_it_takes() -> None:
    """Fails when the sixth row is had at the price of the second: with prices that rise at the fifth row there are four
    nodes and those that are worth more; what the prices allow is drafted."""
    whole, _, _ = grown(Limits(60, depth=12, width=WIDTH, n_leaves=255))
    chances = np.sort(np.exp(whole.draft_logprob))[::-1]
    high = float(chances[8] + chances[9]) / 2
    tree, _, _ = grown(Limits(60, depth=12, width=WIDTH, n_leaves=255, row_prices=(0.0,) * 4 + (high,)))
    assert np.sort(np.exp(tree.draft_logprob))[::-1] == pytest.approx(chances[:9])
    dear, _, _ = grown(Limits(60, depth=12, width=WIDTH, n_leaves=255, row_prices=(0.0,) * 4 + (0.9,)))
    assert np.sort(np.exp(dear.draft_logprob))[::-1] == pytest.approx(chances[:4])


def test_a_wave_that_cannot_pay_is_not_read() -> None:
    """Fails when the drafter reads on for nodes that together bring less than its pass costs."""
    _, _, free = grown(Limits(60, depth=12, width=WIDTH, n_leaves=255))
    _, _, dear = grown(Limits(60, depth=12, width=WIDTH, n_leaves=255, wave_price=0.4))
    assert len(dear.waves) < len(free.waves)
    scores = [sum(np.exp(free.tree.score[n]) for n in wave) for wave in free.waves]
    assert len(dear.waves) == next(i for i, s in enumerate(scores) if s <= 0.4)


def test_each_node_is_read_once_and_in_waves_no_wider_than_asked() -> None:
    """Fails when the drafter pays twice for a node."""
    _, _, reader = grown(Limits(64, depth=12, width=WIDTH, n_leaves=255, n_beams=5))
    read = [n for wave in reader.waves for n in wave]
    assert len(read) == len(set(read))
    assert max(map(len, reader.waves)) <= 5


def test_a_lower_reach_reads_less_and_keeps_most_of_the_best_tree() -> None:
    """Fails when reach saves nothing, or costs the tree its best nodes."""
    exact = Limits(32, depth=12, width=WIDTH, n_leaves=255)
    _, _, full = grown(exact)
    tree, _, some = grown(Limits(32, depth=12, width=WIDTH, n_leaves=255, reach=0.3))
    assert sum(map(len, some.waves)) < sum(map(len, full.waves))
    assert len(prefixes(tree) & best_prefixes(32, 12)) >= 24


def test_lead_tokens_stay_out_of_the_tree() -> None:
    """Fails when what the drafter had yet to read is verified again."""
    tree, places, _ = grown(Limits(10, depth=12, width=WIDTH, n_leaves=255), lead=(5, 6, 99))
    assert tree.token[0] == 99
    assert tree.depth[0] == 0
    assert tree.parent[0] == -1
    assert places[0] == 2
    assert prefixes(tree) == best_prefixes(10, 12)


def test_one_row_is_the_pending_token_alone() -> None:
    """Fails when plain decoding pays for a draft."""
    tree, _, reader = grown(Limits(1, depth=12, width=WIDTH, n_leaves=255))
    assert len(tree) == 1
    assert reader.waves == []
    assert single(4).token.tolist() == [4]
    assert chain([4, 5]).parent.tolist() == [-1, 0]

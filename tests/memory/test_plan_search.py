"""The search finds what trying everything finds, and never what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgespec.errors import DoesNotFit
from edgespec.memory.arms import ROUND_MS, ROWS
from edgespec.memory.configuration import Configuration
from edgespec.memory.footprint import Footprint
from edgespec.memory.methods import KV_KEPT, WINDOW_KEPT, target_spec
from edgespec.memory.plan import KEEP, Plan, plan
from edgespec.memory.problem import USEFUL_CONTEXTS, Problem, Room
from edgespec.memory.search import N_UBATCH, PROMPT_SHARE, SLOWER_ON_CPU, SLOWER_ON_GPU
from edgespec.memory.sizes import MIB
from edgespec.memory.times import Where, pass_ms
from edgespec.settings import Settings
from edgespec.speculation.shapes import best_trees
from edgespec.types import PLAIN, Choice, ContextSpec
from tests.memory.world import World

HOST, GPU, GPUS = World(), World(("CUDA0",)), World(("CUDA0", "CUDA1"))


def everything(problem: Problem, n_ctx: int) -> Iterator[tuple[Configuration, float]]:
    """Every configuration of a context and its tokens a second, written down again without the search's short cuts.

    The depth is given by the settings.
    """
    asked, method = problem.settings, problem.methods[0]
    trees = {width: best_trees(method.by_rank(width), 64, 16, width) for width in (1, 8)}
    for placement in problem.placements():
        footprint = problem.predict(Configuration(ContextSpec(n_ctx), placement=placement))
        weights = [item for item in footprint.items if item.component == "weights"]
        where = Where(placement, tuple((d, Footprint(tuple(weights)).on(d)) for d in {i.device for i in weights}))
        for n_ubatch, slow in zip(N_UBATCH, SLOWER_ON_GPU if placement.n_gpu_layers else SLOWER_ON_CPU, strict=True):
            kept = 1 / (1 + PROMPT_SHARE * (slow - 1))
            spec = ContextSpec(n_ctx, kv_type=asked.kv_type, n_ubatch=n_ubatch)
            alone = pass_ms(problem.target, where, [1], problem.machine)[0]
            yield Configuration(target_spec(spec, PLAIN), placement=placement), kept * 1e3 / (alone + ROUND_MS)
            for rows, width in [(r, w) for r in ((asked.nodes,) if asked.nodes else ROWS) for w in (1, 8)]:
                choice = Choice("model", rows, min(asked.depth or 0, rows - 1), width)
                ms = pass_ms(problem.target, where, [rows], problem.machine)[0] + ROUND_MS
                base = Configuration(target_spec(spec, choice), choice, placement)
                waves = trees[width].shape(rows, choice.depth).waves(4)
                for site in method.sites:
                    draft_ms = sum(method.wave_ms(site)[n - 1] for n in waves)
                    rate = kept * 1e3 * trees[width].tokens[choice.depth, rows] / (ms + draft_ms)
                    for variant in method.variants(base, site):
                        assert variant.draft is not None
                        lean = KV_KEPT[variant.draft.context.kv_type] * WINDOW_KEPT[variant.draft.window]
                        yield replace(base, draft=variant.draft), rate * lean


def fits(problem: Problem, footprint: Footprint, budget: int | None) -> bool:
    return footprint.total_bytes <= (budget or 2**60) and all(
        footprint.on(room.device) <= room.free_bytes for room in problem.rooms
    )


@pytest.mark.parametrize(
    ("world", "settings", "gpu"),
    [
        (HOST, Settings(context=2048, depth=4), 0),
        (HOST, Settings(context=2048, depth=4, budget=1400 * MIB), 0),
        (HOST, Settings(context=512, depth=2, kv="q8_0"), 0),
        (GPU, Settings(context=2048, depth=3, nodes=5), 480 * MIB),
        (GPU, Settings(context=2048, depth=3, nodes=6, budget=1450 * MIB), 950 * MIB),
        (GPUS, Settings(context=2048, depth=3, nodes=4), 350 * MIB),
    ],
)
def test_the_search_finds_what_trying_everything_finds(world: World, settings: Settings, gpu: int) -> None:
    """Fails when a short cut leaves out the best, or a tie goes to more bytes."""
    problem = world.problem(settings, gpu=gpu)
    tried = [(c, rate, problem.predict(c)) for c, rate in everything(problem, settings.context or 0)]
    in_rooms = [entry for entry in tried if fits(problem, entry[2], None)]
    fast = max(rate for c, rate, _ in in_rooms if c.draft)
    allowed = [e for e in in_rooms if e[0].draft is None or e[1] >= KEEP * fast * (1 - 1e-9)]
    allowed = [e for e in allowed if fits(problem, e[2], settings.budget)]
    best = max(rate for _, rate, _ in allowed)
    fewest = min(f.total_bytes for _, rate, f in allowed if rate >= 0.99 * best)
    found = plan(problem)
    assert found.tokens_per_s >= 0.99 * best * (1 - 1e-9)
    assert found.footprint.total_bytes == fewest
    floor = min(f.total_bytes for c, rate, f in in_rooms if c.draft and rate >= KEEP * fast * (1 + 1e-9))
    assert found.floor_bytes == floor


def swept(world: World, settings: Settings, gpu: int) -> Iterator[Plan]:
    for n in range(1020, 1800, 60):
        try:
            yield plan(world.problem(replace(settings, budget=n * MIB), gpu=gpu))
        except DoesNotFit:
            continue


def alike(found: Plan) -> tuple[int, str, bool]:
    """What comes before speed; a drafter that the user named may be slower than nothing."""
    target = found.configuration.target
    return target.n_ctx, target.kv_type, found.warnings == ()


@pytest.mark.parametrize(("world", "gpu"), [(HOST, 0), (GPU, 500 * MIB)])
@pytest.mark.parametrize("settings", [Settings(), Settings(method="model")])
def test_more_budget_never_gives_fewer_tokens(world: World, gpu: int, settings: Settings) -> None:
    """Within a context and a cache type, which come first; across contexts nothing that the 96 % do not allow, down to
    the context that a drafter may cost: below it the conversation comes first.

    Fails when a drafter that fitted is given up for room that grew, as a rule that prefers longer contexts to drafters
    would.
    """
    last: Plan | None = None
    for found in swept(world, settings, gpu):
        if last and alike(found) == alike(last):
            assert found.tokens_per_s >= last.tokens_per_s
        if last and settings.method == "auto" and last.configuration.target.n_ctx >= USEFUL_CONTEXTS[-1]:
            assert found.tokens_per_s >= 0.99 * KEEP * last.tokens_per_s
        last = found
    assert last is not None
    assert last.method == "model"


@pytest.mark.parametrize(("world", "gpu"), [(HOST, 0), (GPUS, 300 * MIB)])
def test_no_plan_exceeds_a_room_or_the_budget(world: World, gpu: int) -> None:
    """The one law a user notices at once: fails when a sum forgets a device or a component."""
    for n in range(1000, 1900, 90):
        problem = world.problem(Settings(budget=n * MIB), cpu=1600 * MIB, gpu=gpu)
        try:
            found = plan(problem)
        except DoesNotFit:
            continue
        assert fits(problem, found.footprint, n * MIB)
        assert found.footprint == problem.predict(found.configuration)
        for rung in found.rungs:
            assert fits(problem, problem.predict(rung), n * MIB)


def test_a_device_without_room_is_not_used() -> None:
    """Fails when bytes on a device that nobody named count as free."""
    problem = replace(GPU.problem(gpu=2000 * MIB), rooms=(Room("cpu", 2**40),))
    assert plan(problem).footprint.on("CUDA0") == 0
    problem = replace(GPU.problem(gpu=0))
    assert plan(problem).configuration.placement.n_gpu_layers == 0


def test_planning_predicts_few_of_its_points() -> None:
    """Two devices and a drafter's own place make tens of thousands of points; fails when each is predicted."""
    for gpu in (8000 * MIB, 2000 * MIB, 1500 * MIB):
        problem = World(("CUDA0", "CUDA1"), n_layers=32).problem(gpu=gpu)
        asked: list[Configuration] = []

        def predict(c: Configuration, inner=problem.predict, asked=asked) -> Footprint:
            asked.append(c)
            return inner(c)

        found = plan(replace(problem, predict=predict))
        assert len(asked) < 10_000
        assert found.configuration.placement.n_gpu_layers > 20

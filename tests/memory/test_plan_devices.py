"""Where weights and drafter go. A layer is 100 MiB, the head too, a drafter 100 and its buffers (world.py)."""

from __future__ import annotations

import pytest

from edgespec.memory.plan import Plan, plan
from edgespec.memory.sizes import MIB
from edgespec.settings import Settings
from tests.memory.world import World

GPU, GPUS, EXPERTS = World(("CUDA0",)), World(("CUDA0", "CUDA1")), World(("CUDA0",), experts=80)


def layers(found: Plan) -> int:
    return found.configuration.placement.n_gpu_layers


def test_all_of_it_goes_to_a_device_with_room() -> None:
    """8 layers, the head and the drafter."""
    found = plan(GPU.problem(gpu=4000 * MIB))
    assert layers(found) == 9
    assert found.footprint.of("draft weights") == 100 * MIB
    assert found.configuration.draft is not None
    assert found.configuration.draft.placement.n_gpu_layers > 0


def test_as_many_layers_as_fit_go_to_a_small_device() -> None:
    """Fails when a device is left half empty: what is in it is read faster."""
    for n in (1, 3, 6):
        found = plan(GPU.problem(Settings(method="plain"), gpu=(100 * n + 50) * MIB))
        assert layers(found) == n
    assert layers(plan(GPU.problem(Settings(method="plain"), gpu=50 * MIB))) == 0


def test_more_layers_on_a_device_are_never_predicted_slower() -> None:
    """Fails when a prior makes a device look slower than the processor."""
    speeds = [plan(GPU.problem(Settings(method="plain"), gpu=100 * n * MIB)).tokens_per_s for n in range(10)]
    assert speeds == sorted(speeds)


def test_a_full_main_device_leaves_the_drafter_the_other_one() -> None:
    """900 MiB of target fill the first; fails when a drafter can only lie beside its target."""
    found = plan(GPUS.problem(gpu=(900 * MIB, 250 * MIB)))
    draft = found.configuration.draft
    assert draft is not None
    assert draft.placement.tensor_split == (0.0, 1.0)
    assert found.configuration.placement.tensor_split == (1.0, 0.0)
    assert "on CUDA1" in next(entry.reason for entry in found.lines if entry.line == "drafter")


def test_two_devices_share_what_neither_holds() -> None:
    """Fails when the larger device alone decides."""
    found = plan(GPUS.problem(Settings(method="plain"), gpu=(500 * MIB, 420 * MIB)))
    assert layers(found) == 9
    assert found.footprint.on("CUDA0") == 500 * MIB
    assert found.footprint.on("CUDA1") == 400 * MIB


def test_experts_stay_on_the_processor_where_a_device_is_short() -> None:
    """A token uses 4 of 32 experts: 80 of a layer's 100 MiB are hardly read. By hand the rest of all 9 is 260 MiB."""
    found = plan(EXPERTS.problem(Settings(method="plain"), gpu=300 * MIB))
    assert found.configuration.placement.experts_on_cpu
    assert layers(found) == 9
    assert found.footprint.on("CUDA0") == 260 * MIB
    whole = plan(EXPERTS.problem(Settings(method="plain"), gpu=2000 * MIB))
    assert not whole.configuration.placement.experts_on_cpu


def test_the_budget_bounds_all_devices_together() -> None:
    """One dial: fails when each device gets the whole of it."""
    found = plan(GPU.problem(Settings(budget=1600 * MIB), gpu=4000 * MIB))
    assert found.footprint.total_bytes <= 1600 * MIB
    assert layers(found) == 9


@pytest.mark.parametrize("gpu", [0, 450 * MIB, 4000 * MIB])
def test_the_placement_says_what_it_takes(gpu: int) -> None:
    """Fails when a user cannot see where the bytes went."""
    value, reason = next((e.value, e.reason) for e in plan(GPU.problem(gpu=gpu)).lines if e.line == "placement")
    assert "CUDA0" in value + reason

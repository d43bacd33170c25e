"""A made-up model with round bytes, so that plans can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from edgespec.memory.configuration import Configuration, Placement
from edgespec.memory.footprint import CPU, Footprint, Item
from edgespec.memory.methods import Method, from_model
from edgespec.memory.problem import Problem, Room
from edgespec.memory.sizes import GIB, KIB, MIB
from edgespec.memory.times import Mixture, ModelTimes
from edgespec.settings import Settings
from edgespec.speculation.acceptance import Acceptance
from edgespec.types import ContextSpec

KV_SHARE = {"f16": 32, "q8_0": 17, "q4_0": 9}  # of 32


@cache
def _predicted(world: World, configuration: Configuration) -> Footprint:
    """Plans are made by the hundred here; a table of sizes is as quick as this."""
    return world.predicted(configuration)


@dataclass(frozen=True)
class World:
    """Layers of 100 MiB each, the head and the token table too; a cached token takes 128 KiB in f16, 16 KiB
    in a drafter's; a row of logits 512 KiB. experts: MiB of each layer that are experts."""

    gpus: tuple[str, ...] = ()
    draft_mib: int = 100
    experts: int = 0
    n_layers: int = 8

    def predict(self, c: Configuration) -> Footprint:
        return _predicted(self, c)

    def predicted(self, c: Configuration) -> Footprint:
        items = [*self._weights(c.placement), *self._context(c.target, 128 * KIB)]
        if c.draft:
            at = self._device(c.draft.placement)
            spec = c.draft.context
            if c.draft.window is not None:
                spec = replace(spec, n_ctx=min(spec.n_ctx, c.draft.window + 64))
            items += [Item("draft weights", at, self.draft_mib * MIB, "")]
            items += [replace(i, component=f"draft {i.component}", device=at) for i in self._context(spec, 16 * KIB)]
        return Footprint(tuple(items))

    def _device(self, placement: Placement) -> str:
        if not placement.n_gpu_layers:
            return CPU
        return self.gpus[placement.tensor_split.index(1.0) if placement.tensor_split else 0]

    def _weights(self, placement: Placement) -> list[Item]:
        n_moved = min(placement.n_gpu_layers, self.n_layers + 1)
        layers = [100 * MIB] * (self.n_layers + 1)
        split = placement.tensor_split or (1.0,) * len(self.gpus)
        items = [Item("weights", CPU, 100 * MIB, "table")]
        if placement.streamed and not n_moved:
            return items  # as much as a layer
        for i, n_bytes in enumerate(layers):
            moved = i - (len(layers) - n_moved)
            if moved < 0:
                items.append(Item("weights", CPU, n_bytes, ""))
                continue
            edge, at = 0.0, 0
            for at, share in enumerate(split):  # noqa: B007
                edge += share / sum(split) * n_moved
                if moved < edge - 1e-9:
                    break
            n_experts = self.experts * MIB if i < self.n_layers and placement.experts_on_cpu else 0
            items.append(Item("weights", self.gpus[at], n_bytes - n_experts, ""))
            items.append(Item("weights", CPU, n_experts, ""))
        return items

    def _context(self, spec: ContextSpec, kv_token: int) -> list[Item]:
        rows = max(spec.max_nodes, spec.max_leaves)
        return [
            Item("kv", CPU, spec.n_ctx * kv_token * KV_SHARE[spec.kv_type] // 32, ""),
            Item("compute", CPU, spec.n_ubatch * 128 * KIB, ""),
            Item("output", CPU, rows * 512 * KIB, ""),
        ]

    def times(self) -> ModelTimes:
        mixture = Mixture(self.experts * MIB * self.n_layers, 32, 4) if self.experts else None
        return ModelTimes(
            "F16", self.n_layers, 100 * MIB, mixture=mixture, weight_bytes=(self.n_layers + 2) * 100 * MIB
        )

    def method(self, greedy: bool = True) -> Method:
        times = ModelTimes("F16", 2)
        return from_model(
            "small", times, self.draft_mib * MIB, lambda w: Acceptance().by_rank(greedy, w), (CPU, *self.gpus)
        )

    def problem(
        self, settings: Settings | None = None, cpu: int = 64 * GIB, gpu: int | tuple[int, ...] = ()
    ) -> Problem:
        free = (gpu,) * len(self.gpus) if isinstance(gpu, int) else gpu
        rooms = (Room(CPU, cpu), *(Room(d, n) for d, n in zip(self.gpus, free, strict=True)))
        return Problem(settings or Settings(), self.times(), 8192, rooms, (self.method(),), self.predict)

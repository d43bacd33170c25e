"""Bytes of whole configurations of a target and its drafters: predict.py's parts, put together once each.

Not covered: which configurations there are (search.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.errors import BackendError
from edgespec.memory.configuration import Configuration, Placement, as_opened
from edgespec.memory.fitted import Surface, surface
from edgespec.memory.footprint import CPU, Footprint, Item
from edgespec.memory.host import Host
from edgespec.memory.predict import Part, predict
from edgespec.memory.source import Source
from edgespec.types import ContextSpec

# What sources draft from, filled to the brim: 70 bytes a token of text (benchmarks/results/suffix.json), and the rows
# that are recycled.
N_TEXT_TOKENS, TEXT_TOKEN_BYTES, RECYCLED_BYTES = 1 << 17, 70, 56 << 15
TABLES = Footprint(
    (Item("tables", CPU, N_TEXT_TOKENS * TEXT_TOKEN_BYTES + RECYCLED_BYTES, "edgespec: texts and rows drafted from"),)
)


class Forecast:
    """Bytes of configurations of a target and its drafters, each part worked out once."""

    def __init__(self, host: Host, target: Source, drafts: Mapping[str, Source], options: LoadOptions) -> None:
        """options: as the target is loaded, its layers aside."""
        self._host, self._target, self._drafts, self._options = host, target, drafts, options
        self._parts: dict[tuple[str, ContextSpec, Placement], Footprint] = {}
        self._surfaces: dict[tuple[str, bool], Surface | None] = {}
        self._beside = Footprint(
            (
                Item("program", CPU, host.program_bytes, "measured: the processes"),
                Item("margin", CPU, host.margin_bytes, "predictions err by so much"),
            )
        )

    def __call__(self, configuration: Configuration) -> Footprint:
        """Of a configuration for its whole context, everything opened; raises BadSetting."""
        c = as_opened(configuration, configuration.target.n_ctx)
        found = self._beside + self._part("", self._target, c.target, c.placement)
        if c.sources:
            found = found + TABLES
        if c.draft is None:
            return found
        draft = self._drafts[c.draft.name]
        return found + self._part("draft ", draft, c.draft.context, c.draft.placement)

    def bytes_of(self, configuration: Configuration) -> int:
        """Of a configuration exactly as it is written, for a ladder."""
        parts = [self._part("", self._target, configuration.target, configuration.placement)]
        if configuration.sources:
            parts.append(TABLES)
        if (d := configuration.draft) is not None:
            parts.append(self._part("draft ", self._drafts[d.name], d.context, d.placement))
        return sum(part.total_bytes for part in parts)

    def at(self, opened: Configuration, n_used: Mapping[str, int]) -> int:
        """Of a configuration as it is written, when so many cells are in use: by role ("" for the
        target, "draft ")."""
        parts = [self._described("", self._target, opened.target, opened.placement)]
        if (d := opened.draft) is not None:
            parts.append(self._described("draft ", self._drafts[d.name], d.context, d.placement))
        used = [replace(part, n_used=n_used.get(part.role)) for part in parts]
        return sum(predict(part, self._host).total_bytes for part in used)

    def _described(self, role: str, source: Source, spec: ContextSpec, placement: Placement) -> Part:
        """With the runtime's own figures where no formula covers the model."""
        part, fitted = Part(source.shape, spec, placement, role), self._surface(source, placement, spec.exact)
        if fitted is None:
            return part
        return replace(part, compute=fitted(spec), cell_bytes=fitted.cell_bytes[spec.kv_type])

    def _part(self, role: str, source: Source, spec: ContextSpec, placement: Placement) -> Footprint:
        key = role + source.name, spec, placement
        if key not in self._parts:
            self._parts[key] = predict(self._described(role, source, spec, placement), self._host)
        return self._parts[key]

    def _surface(self, source: Source, placement: Placement, exact: bool) -> Surface | None:
        """From the runtime where no formula covers a model; None: the formula, or a guess where the runtime says
        nothing. One for the processor and one for the devices: what a layer takes there does not depend on how many lie
        there."""
        if source.shape.llama_like:
            return None
        key = source.name, bool(placement.n_gpu_layers)
        if key not in self._surfaces:
            everywhere = len(source.shape.layers) + 1 if placement.n_gpu_layers else 0
            options = replace(self._options, n_gpu_layers=everywhere)
            base = ContextSpec(512, n_threads=self._host.n_threads, exact=exact)
            try:
                self._surfaces[key] = surface(source.path, source.shape, options, base)
            except BackendError:
                self._surfaces[key] = None
        return self._surfaces[key]

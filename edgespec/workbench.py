"""One loaded model under several methods, measured in turn. Not covered: loading (assemble), measuring (bench)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgespec.assistant import Assistant
from edgespec.backends.base import Context, Model
from edgespec.engine import calibrate
from edgespec.errors import BadSetting, DoesNotFit
from edgespec.passage import passage_ids
from edgespec.settings import Settings
from edgespec.speculation.controllers import Controller, FixedController
from edgespec.speculation.cost import Curve, from_dict
from edgespec.speculation.drafters.base import Drafter
from edgespec.store import calibration
from edgespec.types import Choice, ContextSpec

# Room for the widths of a curve behind its greatest depth, and rows where that many do not fit.
_CURVE_CONTEXT, _CURVE_ROWS = 2048, (256, 32)


@dataclass(frozen=True)
class Workbench:
    """Close it to free the model.

    choices        what each method does, by the name it was asked for; PLAIN where nothing drafts
    whys           why a method decodes plainly, by its name; "" where it drafts
    settings       those it was opened with, threads decided
    target         the loaded weights
    curve_key      under what the target's cost curve is remembered
    draft          the drafter's weights, None where nothing drafts; drafter_on makes a new drafter on a context of them
    controller     what decides each round of a method, by its name: the same one at every use
    """

    assistant: Assistant
    choices: Mapping[str, Choice]
    whys: Mapping[str, str]
    settings: Settings
    target: Model
    draft: Model | None
    drafter_on: Callable[[Context], Drafter]
    curve_key: str
    controller: Callable[[str], Controller]

    def use(self, name: str) -> None:
        """Answer by this method from now on."""
        choice = self.choices[name]
        controller = self.controller(name)
        method = "auto" if not isinstance(controller, FixedController) else "plain" if choice.plain else choice.drafter
        self.assistant.engine.control(controller, method)

    def curve(self, cancelled: Callable[[], bool] = lambda: False) -> Curve:
        """What a pass costs here: as remembered for this model, build and machine, else measured in under 5 seconds.

        Raises what measure_curve raises.
        """
        known = calibration.load(self.curve_key)
        if known is not None:
            try:
                return from_dict(known)
            except BadSetting:
                pass  # written by another version: measured again
        return self.measure_curve(calibrate.BUDGET_S, cancelled)

    def measure_curve(self, budget_s: float, cancelled: Callable[[], bool] = lambda: False) -> Curve:
        """What a pass costs here and now, measured in so many seconds, and remembered.

        Raises BadSetting where the model cannot be rolled back, DoesNotFit, Cancelled.
        """
        context = self._open_for_curve()
        try:
            text = passage_ids(self.target)
            found = calibrate.measure(context, self.target.n_vocab, budget_s, cancelled=cancelled, text=text)
        finally:
            context.close()
        calibration.save(self.curve_key, found.to_dict())
        return found

    def _open_for_curve(self) -> Context:
        for rows in _CURVE_ROWS:
            try:
                return self.target.open(
                    ContextSpec(
                        n_ctx=min(_CURVE_CONTEXT, self.assistant.engine.n_ctx),
                        max_nodes=rows,
                        max_leaves=1,
                        kv_type=self.settings.kv_type,
                        n_threads=self.settings.threads,
                        exact=self.settings.exact,
                    )
                )
            except DoesNotFit:
                if rows == _CURVE_ROWS[-1]:
                    raise
        raise AssertionError("one of the two returns or raises")

    def close(self) -> None:
        self.assistant.close()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""One conversation, round by round: choose, draft, evaluate, verify, keep (docs/design.md section 2).

Calls go down, steps come up; the only lasting change of a round is at its commit.
Not covered: several slots in a batch; what is exchanged between rounds (ladder.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgespec.backends.base import Progress
from edgespec.engine.ladder import Ladder
from edgespec.engine.setup import SLOT, Setup
from edgespec.errors import BadSetting, Cancelled, ContextOverflow
from edgespec.speculation.controllers import Controller
from edgespec.speculation.sampling import Noise, Process
from edgespec.speculation.sizing import whole
from edgespec.speculation.tree import below, single
from edgespec.speculation.verify import Draws, ranks, target_draws, verify
from edgespec.types import PLAIN, Ids, Notice, Prefill, Sampling, Span, Step


class Engine:
    """Generates for one conversation at a time; keeps its cache between calls and prefills only what is new."""

    def __init__(
        self,
        setup: Setup,
        *,
        ladder: Ladder | None = None,
        n_ctx_train: int | None = None,
        draws: Draws = target_draws,
    ) -> None:
        """ladder: whose setup it is; None: nothing is exchanged and the context does not grow. draws: where tokens come
        from unless `generate` says otherwise."""
        self._setup, self._ladder, self._draws = setup, ladder, draws
        self._target = setup.target
        self._n_ctx_train = n_ctx_train
        self._ids: Ids = np.zeros((ladder.n_ctx_most if ladder else setup.target.spec.n_ctx) + 1, np.int32)
        self._n = 0

    @property
    def n_ctx(self) -> int:
        """The longest conversation promised, whatever is opened of it."""
        return (self._ladder.configuration.target if self._ladder else self._target.spec).n_ctx

    @property
    def method(self) -> str:
        return self._setup.method

    def control(self, controller: Controller, method: str) -> None:
        """Let another controller decide from the next answer on."""
        self._setup.controller, self._setup.method = controller, method

    def forget(self) -> None:
        """Drop the conversation from every cache: the next prompt is read from its first token."""
        self._reopen()
        self._target.truncate(SLOT, 0)
        for drafter in self._setup.drafters.values():
            drafter.forget()

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int | None,
        *,
        end_ids: Collection[int],
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        draws: Draws | None = None,
    ) -> Iterator[Prefill | Step | Notice]:
        """One Prefill, then a Step a round; the last one has a finish. Closing the iterator stops between rounds.
        Notices stand in front of what they were the reason for.

        draws: where tokens come from, None: as the engine was made; a recorded answer is replayed by it.
        max_tokens None: until the context is full (finish "length"). Raises ContextOverflow when prompt and one token
        do not fit, Cancelled when stopped before the first token; later a stop is finish "cancelled". Raises DoesNotFit
        where memory ends before the context does.
        """
        self._begin(len(prompt), max_tokens, cancelled)
        n_more = max_tokens or len(self._ids)
        start = time.perf_counter()
        n_cached, notices = self._reuse(np.asarray(prompt, np.int32), n_more)
        lead = self._prefill(n_cached, progress)
        prefill_ms: float | None = 1e3 * (time.perf_counter() - start)
        process, noise, finish = Process(sampling), Noise(sampling.seed), None
        while finish is None:
            try:
                if cancelled and cancelled():
                    raise Cancelled("stopped")
                start = time.perf_counter()
                if prefill_ms is None:
                    notices = self._between_rounds(n_more, self._n - len(prompt))
                n_left = min(self.n_ctx - self._n, n_more)
                step = self._round(start, process, noise, end_ids, n_left, draws or self._draws, lead)
            except Cancelled:
                if prefill_ms is not None:
                    raise
                step = Step((), PLAIN, 0, 0, 0.0, 0.0, 0.0, finish="cancelled")
            yield from notices
            if prefill_ms is not None:
                of_prompt = step.target_ms * len(lead) / (len(lead) + step.n_drafted + 1)
                yield Prefill(len(prompt), n_cached, prefill_ms + of_prompt)
                step = replace(step, target_ms=step.target_ms - of_prompt)
                prefill_ms, lead = None, lead[:0]
            n_more -= len(step.tokens)
            finish = step.finish
            notices = []
            yield step

    def _begin(self, n_prompt: int, max_tokens: int | None, cancelled: Callable[[], bool] | None) -> None:
        """Refuse what cannot be answered, and let a cancel reach every context."""
        if not n_prompt:
            raise BadSetting("the prompt is empty; give at least one token")
        if max_tokens is not None and max_tokens < 1:
            raise BadSetting(f"max tokens is {max_tokens} but must be at least 1")
        if n_prompt + 1 > self.n_ctx:
            raise ContextOverflow(n_prompt + 1, self.n_ctx, self._n_ctx_train)
        for context in (self._target, *self._setup.draft_contexts):
            context.cancelled = cancelled

    def _between_rounds(self, n_left: int, n_said: int) -> list[Notice]:
        return self._ladder.between_rounds(self._ids[: self._n], n_left, n_said) if self._ladder else []

    def _reopen(self) -> None:
        if self._ladder:
            self._ladder.reopen(self._ids[: self._n])

    def _reuse(self, prompt: Ids, n_left: int) -> tuple[int, list[Notice]]:
        """Take a prompt as the conversation and drop what the cache holds beyond their common beginning, whose length
        comes back; then make room for the rest of it."""
        self._reopen()
        n_same = min(self._target.length(SLOT), len(prompt) - 1)
        differs = np.flatnonzero(self._ids[:n_same] != prompt[:n_same])
        n_same = int(differs[0]) if len(differs) else n_same
        if self._target.caps.max_rollback is not None and n_same < self._target.length(SLOT):
            n_same = 0
        self._target.truncate(SLOT, n_same)
        self._ids[: len(prompt)] = prompt
        self._n = len(prompt)
        return n_same, self._ladder.make_room(self._ids[: self._n], n_left) if self._ladder else []

    def _prefill(self, n_cached: int, progress: Progress | None) -> Ids:
        """Commit the prompt behind what the cache holds of it, but for what the first round's pass can read as well:
        a pass of its own for that would read the weights once more. Returns what is left between the cache and the
        pending token."""
        missing: Ids = self._ids[n_cached : self._n - 1]
        n_apart = len(missing)
        if n_silent := self._target.caps.max_silent:
            n_apart -= len(missing) % n_silent or min(n_silent, len(missing))
        if n_apart:
            report: Progress | None = progress and (lambda done, _: progress(done, len(missing)))
            self._target.prefill(SLOT, missing[:n_apart], report)
        return missing[n_apart:]

    def _round(
        self,
        start: float,
        process: Process,
        noise: Noise,
        end_ids: Collection[int],
        n_left: int,
        draws: Draws,
        lead: Ids,
    ) -> Step:
        """lead: text in front of the pending token that is in no cache yet. The pass that reads it drafts nothing: the
        first token need not wait for the drafter to read the prompt, and is the hardest one to draft. start: when the
        round began, what was done before it included."""
        setup = self._setup
        target_ms, draft_ms = self._target.ms, sum(c.ms for c in setup.draft_contexts)
        history = self._ids[: self._n]
        choice = PLAIN if len(lead) else setup.controller.choose(n_left, history)
        drafter = None if choice.plain else setup.drafters[choice.drafter]
        drafted = drafter.draft(history, choice, process, noise) if drafter else single(int(history[-1]))
        sized = whole(drafted) if len(lead) else setup.controller.size(choice, drafted, history)
        tree = sized.tree
        read, n_lead = (below(lead, tree), len(lead)) if len(lead) else (tree, 0)
        span = Span(SLOT, read, np.arange(len(read), dtype=np.int32), n_silent=n_lead)
        rows = self._target.evaluate([span], self._target.cancelled if n_lead else None)
        verdict = verify(tree, rows, process, noise, history, end_ids=end_ids, max_tokens=n_left, draws=draws)
        for learner in setup.learners:
            learner.learn(history, tree, rows)
        self._target.keep(SLOT, [*range(n_lead), *(n_lead + n for n in verdict.path)] if n_lead else verdict.path)
        self._ids[self._n : self._n + len(verdict.tokens)] = verdict.tokens
        self._n += len(verdict.tokens)
        as_drafted = sized.as_drafted(verdict)
        if drafter:
            drafter.commit(self._ids[: self._n], as_drafted)
        target_ms = self._target.ms - target_ms
        draft_ms = sum(c.ms for c in setup.draft_contexts) - draft_ms
        total = 1e3 * (time.perf_counter() - start)
        step = Step(
            tokens=verdict.tokens,
            choice=choice,
            n_drafted=sized.n_drafted,
            n_accepted=as_drafted.n_accepted,
            target_ms=target_ms,
            draft_ms=draft_ms,
            overhead_ms=total - target_ms - draft_ms,
            finish=verdict.finish,
            ranks=ranks(tree, verdict),
            greedy=process.sampling.greedy,
            n_past=len(history) - 1,
        )
        setup.controller.observe(step, tree, verdict)
        return step

    def close(self) -> None:
        for drafter in self._setup.drafters.values():
            drafter.close()
        self._target.close()

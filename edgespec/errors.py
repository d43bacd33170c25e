"""Every error edgespec raises on purpose: one sentence for the person who can act, and its exit
code (docs/design.md section 6).

Only `cli` and `server` translate these for the outside; everything else lets them pass.
"""

from __future__ import annotations


class EdgespecError(Exception):
    """Root of the tree; str() is the whole message."""

    exit_code = 1


class BadSetting(EdgespecError):
    """A setting that cannot be used as given."""

    exit_code = 2


class DoesNotFit(EdgespecError):
    """Something needs more room than there is."""

    exit_code = 3


class ContextOverflow(DoesNotFit):
    """A prompt longer than the context."""

    def __init__(self, n_needed: int, n_ctx: int, n_ctx_train: int | None = None) -> None:
        self.n_needed, self.n_ctx = n_needed, n_ctx
        more = f" or raise --context (up to {n_ctx_train})" if n_ctx_train is not None and n_ctx_train > n_ctx else ""
        super().__init__(
            f"the prompt with one token of answer needs {n_needed} tokens, which exceeds the available "
            f"context size of {n_ctx}; shorten it{more}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), str(self), {"n_needed": self.n_needed, "n_ctx": self.n_ctx}))


class ModelNotFound(EdgespecError):
    """No such file or name."""

    exit_code = 4


class ModelUnusable(EdgespecError):
    """A file that is there but cannot be run: not a GGUF, cut short, without weights, an embedding model."""


class DrafterUnusable(EdgespecError):
    """A drafter the user named cannot draft for this target."""

    exit_code = 5


class BackendError(EdgespecError):
    """The runtime refused or failed a call."""


class NoKvSlot(BackendError):
    """No room in the KV cache for the rows of a pass (llama_decode returned 1)."""

    exit_code = 3


class InvalidBatch(BackendError):
    """The runtime refused a batch as malformed (llama_decode returned -1)."""


class DecodeFailed(BackendError):
    """The runtime failed inside a pass (llama_decode returned below -1)."""


class Cancelled(EdgespecError):
    """The user stopped the work."""

    exit_code = 130


class AnswerCut(EdgespecError):
    """An answer failed after it had begun; text and tokens are what it had said. Sentence and exit code are those of
    what went wrong."""

    def __init__(self, message: str, text: str = "", tokens: tuple[int, ...] = (), exit_code: int = 1) -> None:
        self.text, self.tokens, self.exit_code = text, tokens, exit_code
        super().__init__(message)


class WorkerDied(AnswerCut):
    """The process that owns the model is gone; text and tokens are empty where no answer had begun."""


def _rebuilt(cls: type[EdgespecError], message: str, state: dict[str, object]) -> EdgespecError:
    """An error as it was before pickling, without running its constructor again."""
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error

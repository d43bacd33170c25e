"""What the user asks of a model that is to be loaded. Not covered: how an answer is drawn (types.Sampling)."""

from __future__ import annotations

from dataclasses import dataclass

from edgespec.errors import BadSetting
from edgespec.types import KV_TYPES, MAX_NODES

METHODS = ("auto", "plain", "model", "parallel", "suffix", "recycle", "lookup", "lookahead", "mix")
# These draft with a second model.
BY_MODEL = ("model", "parallel")
# Those that need no drafter file: each is a source of drafts, or several.
SOURCES = ("suffix", "recycle", "lookup", "lookahead", "mix")
SHAPES = ("auto", "chain", "tree")
RULES = ("match", "rejection")
# Methods whose drafts are draws from known probabilities, as rejection needs them; plain drafts nothing.
WITH_PROBABILITIES = ("auto", "plain", "model")


@dataclass(frozen=True)
class Settings:
    """What the user asked of a model to be loaded; None means the plan decides. Raises BadSetting.

    draft   a name, a path, "none", or None
    budget  bytes edgespec may take on all devices together; None: what is free, less a margin
    verify  how drafts are verified at temperatures above 0: both say what the target would
    corpus  a text file or a folder of them that drafts may be copied from
    remember  keep texts and what they taught for later drafts
    """

    model: str | None = None
    draft: str | None = None
    method: str = "auto"
    shape: str = "auto"
    nodes: int | None = None
    depth: int | None = None
    context: int | None = None
    kv: str | None = None
    exact: bool = False
    threads: int | None = None
    budget: int | None = None
    verify: str = "match"
    corpus: str | None = None
    remember: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("shape", self.shape, SHAPES),
            ("kv", self.kv_type, KV_TYPES),
            ("verify", self.verify, RULES),
        ):
            if value not in known:
                raise BadSetting(f"--{name} {value} is unknown; use one of {', '.join(known)}")
        for name, number, high in (
            ("nodes", self.nodes, MAX_NODES),
            ("depth", self.depth, MAX_NODES),
            ("context", self.context, 2**24),
            ("threads", self.threads, 1024),
            ("budget", self.budget, 2**63 - 1),
        ):
            if number is not None and not 1 <= number <= high:
                raise BadSetting(f"--{name} is {number} but must be between 1 and {high}")
        self._check_words()

    @property
    def kv_type(self) -> str:
        """Of the cache, unless nothing but a smaller one fits: a type that was named is never changed."""
        return self.kv or KV_TYPES[0]

    def _check_words(self) -> None:
        if self.method == "plain" and self.draft not in (None, "none"):
            raise BadSetting(f"--method plain uses no drafter, but -d {self.draft} names one; leave one of them out")
        if self.method in BY_MODEL and self.draft == "none":
            raise BadSetting(f"--method {self.method} needs a drafter, but -d none forbids one; leave one of them out")
        if self.verify == "rejection" and self.method not in WITH_PROBABILITIES:
            raise BadSetting(
                f"--verify rejection needs drafts drawn from probabilities, and --method {self.method} has none; "
                "use --method model, or --verify match"
            )

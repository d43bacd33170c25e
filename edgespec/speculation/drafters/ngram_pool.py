"""What followed a token before: n-grams by their first token, bounded, newest first (arXiv 2402.02057, section 3.2).

Not covered: where n-grams come from (lookahead.py).
"""

from __future__ import annotations

# Some thousand first tokens hold an evening's text; eight continuations are more than a pass can try.
N_KEYS, N_EACH = 4096, 8


class NgramPool:
    """At most n_keys first tokens, of which the least recently added goes first, with at most n_each continuations."""

    def __init__(self, n_keys: int = N_KEYS, n_each: int = N_EACH) -> None:
        self._n_keys, self._n_each = n_keys, n_each
        self._rest: dict[int, tuple[tuple[int, ...], ...]] = {}

    def __len__(self) -> int:
        """N-grams held."""
        return sum(map(len, self._rest.values()))

    def grams(self) -> list[tuple[int, ...]]:
        """Everything held, first tokens least recently added first."""
        return [(first, *rest) for first, found in self._rest.items() for rest in found]

    def add(self, gram: tuple[int, ...]) -> None:
        """Take an n-gram of 2 tokens or more as the newest of its first token.

        One that a longer one begins with makes that one newest instead; shorter ones that it begins with it replaces.
        """
        first, rest = gram[0], gram[1:]
        found = self._rest.pop(first, ())
        newest = next((other for other in found if other[: len(rest)] == rest), rest)
        older = [other for other in found if other != newest and rest[: len(other)] != other]
        self._rest[first] = (newest, *older[: self._n_each - 1])  # last in the dict: most recently added
        if len(self._rest) > self._n_keys:
            del self._rest[next(iter(self._rest))]

    def after(self, token: int) -> tuple[tuple[int, ...], ...]:
        """Continuations of a token, newest first. Changes nothing."""
        return self._rest.get(token, ())

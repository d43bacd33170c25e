"""Tokens to text, as soon as the text is certain.

Bytes of a character may come in several tokens, and the beginning of a stop string may turn out to be
ordinary text: both are held back until it is known. Not covered: reasoning and tool calls; end tokens (the
caller leaves them out).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from edgespec.errors import BadSetting


class TextStream:
    """One answer's text.

    Whatever the split into calls, the parts joined are the UTF-8 decoding of all bytes (U+FFFD for what is
    none), cut before the stop string that is complete first; of several that end there, before the longest.
    """

    def __init__(self, pieces: Sequence[bytes], stop: Sequence[str] = ()) -> None:
        """pieces: bytes of each id, empty where it prints nothing. Raises BadSetting for an empty stop."""
        if "" in stop:
            raise BadSetting("a stop string is empty; leave it out or give it at least one character")
        self._pieces, self._stop = pieces, tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; nothing is printed from then on."""
        return self._stopped

    def feed(self, ids: Iterable[int]) -> str:
        """The text that has become certain with these ids."""
        return self._advance(b"".join([self._pieces[i] for i in ids]), final=False)

    def flush(self) -> str:
        """What was held back, now that no more ids come."""
        return self._advance(b"", final=True)

    def _advance(self, data: bytes, final: bool) -> str:
        if self._stopped:
            return ""
        self._held += self._decoder.decode(data, final)
        cut = self._first_stop()
        if cut is not None:
            self._stopped = True
        elif final:
            cut = len(self._held)
        else:
            cut = len(self._held) - self._n_open()
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _first_stop(self) -> int | None:
        """Where the stop string begins that is complete first."""
        found = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        return min(found)[1] if found else None

    def _n_open(self) -> int:
        """Characters at the end that could begin a stop string."""
        longest = 0
        for stop in self._stop:
            for n in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:n]):
                    longest = n
                    break
        return longest


def decode(pieces: Sequence[bytes], ids: Iterable[int]) -> str:
    """The whole text of ids."""
    return b"".join([pieces[i] for i in ids]).decode("utf-8", errors="replace")

"""The texts that `--corpus PATH` names: a file, or all text files below a folder, one after the other.

What is no text is passed over and counted: names that begin with a dot (.git, .env), symbolic links (inside, what they
lead to is read where it lies; outside was not named), binaries, large files, devices. Never more than one file
is held. Not covered: archives, PDF and other formats with text inside, encodings that are not UTF-8.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgespec.errors import BadSetting

MOST_FILE_BYTES = 4 << 20
MOST_BYTES = 64 << 20
# A home directory named by mistake must not keep the start waiting.
MOST_NAMES = 50_000
_HEAD_BYTES = 8 << 10


@dataclass(frozen=True)
class Counts:
    """What became of the files met so far; n_bytes of the n_read texts; cut: a bound ended the reading."""

    n_read: int = 0
    n_skipped_binary: int = 0
    n_skipped_large: int = 0
    n_unreadable: int = 0
    n_bytes: int = 0
    cut: bool = False


class Corpus:
    """Iterating yields the texts as bytes, sorted by path, and counts anew.

    most_file_bytes  files larger are passed over
    most_bytes       reading ends in front of the file that would exceed it
    most_names       reading ends after so many files and folders

    Raises BadSetting where path is not there.
    """

    def __init__(
        self,
        path: Path,
        most_bytes: int = MOST_BYTES,
        most_file_bytes: int = MOST_FILE_BYTES,
        most_names: int = MOST_NAMES,
    ) -> None:
        if not os.path.exists(path):
            raise BadSetting(f"--corpus {path} is not there; name a text file or a folder of them")
        self.path = path
        self._most_bytes, self._most_file_bytes, self._most_names = most_bytes, most_file_bytes, most_names
        self._seen: Counter[str] = Counter()

    @property
    def counts(self) -> Counts:
        """Of the texts yielded so far."""
        seen = self._seen
        return Counts(
            n_read=seen["n_read"],
            n_skipped_binary=seen["n_skipped_binary"],
            n_skipped_large=seen["n_skipped_large"],
            n_unreadable=seen["n_unreadable"],
            n_bytes=seen["n_bytes"],
            cut=bool(seen["cut"]),
        )

    def mark(self) -> str:
        """Changes when a file that may be read does: paths, sizes and times; 64 characters."""
        digest = hashlib.sha256(str(self.path.resolve()).encode())
        for path in islice(self._walk(), self._most_names):
            with contextlib.suppress(OSError):
                status = path.lstat()
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        self._seen.clear()
        for n_met, path in enumerate(self._walk()):
            if n_met == self._most_names:
                self._seen["cut"] = 1
                return
            text = None if path.is_dir() else self._text(path)
            if text is None:
                continue
            if self._seen["n_bytes"] + len(text) > self._most_bytes:
                self._seen["cut"] = 1
                return
            self._seen.update(n_read=1, n_bytes=len(text))
            yield text

    def _walk(self) -> Iterator[Path]:
        """Files and folders, each folder in front of what lies in it; however deep, without recursion."""
        waiting = [self.path]
        while waiting:
            path = waiting.pop()
            yield path
            if path.is_dir():
                waiting.extend(path / name for name in reversed(self._names(path)))

    def _names(self, folder: Path) -> list[str]:
        """Sorted; no more than can be read, whatever lies there."""
        try:
            with os.scandir(folder) as entries:
                names = (e.name for e in entries if not e.name.startswith(".") and not e.is_symlink())
                return heapq.nsmallest(self._most_names, names)
        except OSError:
            self._seen["n_unreadable"] += 1
            return []

    def _text(self, path: Path) -> bytes | None:
        """The file's bytes; None where it is passed over, which is counted."""
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
                self._seen["n_unreadable"] += 1
                return None
            if status.st_size > self._most_file_bytes:
                self._seen["n_skipped_large"] += 1
                return None
            with open(path, "rb") as file:
                head = file.read(_HEAD_BYTES)
                if _is_text(head):
                    return head + file.read(status.st_size - len(head)) if len(head) < status.st_size else head
            self._seen["n_skipped_binary"] += 1
        except OSError:
            self._seen["n_unreadable"] += 1
        return None


def _is_text(head: bytes) -> bool:
    """No zero byte and valid UTF-8; a letter that the end of a full head cuts is no fault."""
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return True

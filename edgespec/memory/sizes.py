"""Bytes as people write them: in, for a budget; out, for messages.

KiB, MiB, GiB and TiB are powers of 1024, and so are the bare letters k, m, g and t, as `docker run -m` and Java's -Xmx
have them; KB, MB, GB and TB are powers of 1000, as makers of memory and disks have them.
"""

from __future__ import annotations

import re

from edgespec.errors import BadSetting

KIB, MIB, GIB, TIB = (1 << (10 * n) for n in range(1, 5))
MOST = 2**63 - 1
_UNITS = {
    "": 1,
    "b": 1,
    **dict.fromkeys(("k", "kib"), KIB),
    **dict.fromkeys(("m", "mib"), MIB),
    **dict.fromkeys(("g", "gib"), GIB),
    **dict.fromkeys(("t", "tib"), TIB),
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"(\d{1,20})(?:\.(\d{1,9}))?\s*([a-z]*)", re.ASCII | re.IGNORECASE)


def parse(text: str, flag: str = "--budget") -> int:
    """Whole bytes, 1 or more, rounded down; raises BadSetting naming the flag for anything else."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise BadSetting(f"{flag} {text!r:.60} is no size; write a number with a unit, such as 6GiB, 6GB or 512MiB")
    whole, part = match[1], match[2] or ""
    n_bytes = int(whole + part) * unit // int(10 ** len(part))
    if not 1 <= n_bytes <= MOST:
        raise BadSetting(f"{flag} {text!r:.60} must be at least 1 byte and below 8 EiB; write for example 6GiB")
    return n_bytes


def shown(n_bytes: int) -> str:
    """Three figures or so: "1.21 GiB", "412 MiB", "3.4 KiB", "17 bytes"."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if n_bytes >= 0.9995 * unit:
            value = n_bytes / unit
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {name}"
    return f"{n_bytes} bytes"

"""`edgespec trim`: a drafter with fewer rows in its head, from counts of what is said."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgespec.cli import options as o
from edgespec.cli.screen import Bar
from edgespec.errors import BadSetting
from edgespec.memory.sizes import shown

if TYPE_CHECKING:
    from edgespec.gguf.trim import Trimmed
    from edgespec.store.counts import Counted


AUTO = "auto"


@dataclass(frozen=True)
class Keeping:
    """Flags of what is kept; one of them."""

    keep: Annotated[
        str | None, typer.Option("--keep", help="so many rows, such as 32k or 8192; or auto: as many as pay under -m")
    ] = None
    coverage: Annotated[
        float | None, typer.Option("--coverage", help="the fewest rows that make up this share of like text")
    ] = None
    ids: Annotated[Path | None, typer.Option("--ids", help="the tokens whose ids this file lists")] = None


@dataclass(frozen=True)
class Counting:
    """Flags of what is counted; at most one but -m."""

    counts: Annotated[Path | None, typer.Option("--counts", help="a file that --save-counts wrote")] = None
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="a .jsonl file of prompts that -m answers (best)")
    ] = None
    sessions: Annotated[bool, typer.Option("--sessions", help="what was said with -m on this machine before")] = False
    text: Annotated[Path | None, typer.Option("--text", help="a text file, or a folder of them")] = None
    model: o.Model = None
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="longest answer that is counted (--calibrate)")
    ] = 256


@o.flat
def trim(
    drafter: Annotated[str, typer.Argument(metavar="DRAFT", help="the drafter: a name, or the path of a .gguf file")],
    keeping: Keeping,
    counting: Counting,
    out: Annotated[Path, typer.Option("-o", "--out", help="the .gguf file to write")],
    save_counts: Annotated[Path | None, typer.Option("--save-counts", help="keep what was counted in a file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
) -> int:
    """Write a drafter with fewer rows in its head: less to read for every drafted token, and the same drafts but for
    tokens that hardly come up. The answers stay the target's own."""
    _check(keeping, counting)
    from edgespec.bench.questions import read_questions
    from edgespec.trimming import Asked, trim_drafter

    prompts = None if counting.calibrate is None else [q.turns for q in read_questions(counting.calibrate)]
    asked = Asked(
        drafter,
        out,
        n_rows=None if keeping.keep is None or keeping.keep == AUTO else number(keeping.keep),
        best=keeping.keep == AUTO,
        coverage=keeping.coverage,
        ids=keeping.ids,
        counts=counting.counts,
        prompts=prompts,
        sessions=counting.sessions,
        text=counting.text,
        model=counting.model,
        max_tokens=counting.max_tokens,
        save_counts=save_counts,
    )
    with Bar() as bar:
        made, counted = trim_drafter(asked, bar.show)
    if as_json:
        print(json.dumps({**asdict(made), "path": str(made.path), "counts": counted.origin}))
    else:
        print(told(made, counted))
    return 0


def told(made: Trimmed, counted: Counted) -> str:
    """Two lines: rows and coverage, bytes before and after."""
    by = counted.origin
    if made.coverage is not None:
        by = f"{100 * made.coverage:.2f} % of like text, by {counted.n_tokens:,} tokens in {counted.origin}"
    return (
        f"kept {made.k:,} of {made.n_vocab:,} rows ({by})\n"
        f"{made.path}: {shown(made.after_bytes)}, where the whole drafter has {shown(made.before_bytes)}"
    )


def _check(keeping: Keeping, counting: Counting) -> None:
    """Raises BadSetting for flags that contradict each other, before anything is read."""
    asked = [name for name, value in vars(keeping).items() if value is not None]
    if len(asked) != 1:
        raise BadSetting(f"{len(asked)} of --keep, --coverage and --ids are given; give one of them")
    sources = [name for name in ("counts", "calibrate", "text") if getattr(counting, name) is not None]
    sources += ["sessions"] if counting.sessions else []
    if len(sources) > 1:
        raise BadSetting(f"--{sources[0]} and --{sources[1]} both say what to count; leave one of them out")
    if not sources and keeping.ids is None:
        raise BadSetting(
            f"--{asked[0]} goes by how often tokens come up, and 0 of --calibrate, --sessions, --text and --counts are "
            "given; give one, such as --calibrate PROMPTS.jsonl -m MODEL"
        )
    if (counting.calibrate is not None or counting.sessions) and counting.model is None:
        raise BadSetting(f"--{sources[0]} needs the model that drafts are for; name it with -m")
    if keeping.keep == AUTO and counting.model is None:
        raise BadSetting("--keep auto weighs the drafter against the model that drafts are for; name it with -m")
    if keeping.keep is not None and keeping.keep != AUTO:
        number(keeping.keep)


def number(text: str) -> int:
    """32768 of "32k" or "32768"; raises BadSetting for anything else."""
    found = re.fullmatch(r"(\d{1,9})(k?)", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None or int(found[1]) == 0:
        raise BadSetting(f"--keep {text!r:.40} is no number of rows; write for example 32k, 8192 or auto")
    return int(found[1]) * (1024 if found[2] else 1)

"""`edgespec version`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgespec import __version__


def version(as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False) -> int:
    """Print the versions of edgespec and of its runtime."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        runtime = installed("llama-cpp-python")
    except PackageNotFoundError:
        runtime = None
    if as_json:
        print(json.dumps({"edgespec": __version__, "llama-cpp-python": runtime}))
    else:
        print(f"edgespec {__version__} (llama-cpp-python {runtime or 'is not installed; run `make setup`'})")
    return 0

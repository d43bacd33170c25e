"""`edgespec version`."""

from __future__ import annotations

from importlib.metadata import version as installed

from edgespec import __version__


def version() -> int:
    """Print the versions of edgespec and of its runtime."""
    print(f"edgespec {__version__} (llama-cpp-python {installed('llama-cpp-python')})")
    return 0

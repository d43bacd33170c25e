"""edgespec: a quantized model on your own machine answers faster, in the memory that is there, saying the same.

`import edgespec; edgespec.open("demo").stream(messages)` is the whole library surface; the rest is in docs/design.md.
Importing this module imports nothing else, so that the build tools can run before anything is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgespec.assistant import Assistant
    from edgespec.settings import Settings

__version__ = "0.1.0"


def open(model: str | None = None, settings: Settings | None = None) -> Assistant:
    """A model, by name or path, loaded into this process and ready to answer; raises what open_assistant raises."""
    from dataclasses import replace

    from edgespec.assemble import open_assistant
    from edgespec.settings import Settings

    asked = settings or Settings()
    return open_assistant(asked if model is None else replace(asked, model=model))

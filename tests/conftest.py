"""What all tests share: settings that are not the user's, and one process with the demo loaded."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings

for name in [name for name in os.environ if name.startswith("EDGESPEC_")]:
    del os.environ[name]
# Kept between runs: trying out the runtime takes seconds and its outcome holds for this build and processor.
os.environ["EDGESPEC_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "tests")
# New for every run: what one run learnt about acceptance must not decide the plans of the next.
os.environ["EDGESPEC_DATA_DIR"] = tempfile.mkdtemp(prefix="edgespec-tests-")
atexit.register(shutil.rmtree, os.environ["EDGESPEC_DATA_DIR"], ignore_errors=True)


@atexit.register
def _close_what_llama_cpp_leaves_open() -> None:
    """Two files for helpers that edgespec never calls: with warnings as errors Python complains about them at exit."""
    if utils := sys.modules.get("llama_cpp._utils"):
        utils.outnull_file.close()
        utils.errnull_file.close()


@pytest.fixture(scope="session")
def loaded_once() -> Iterator[Supervisor]:
    """The process behind `worker`; a test that needs another model loads it and is followed by a fresh load."""
    with Supervisor() as supervisor:
        supervisor.load(Settings(model="demo"))
        yield supervisor

"""The checkout's .venv: where it is, making it, running pip in it, and what to say when that fails."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from tools.build_log import cause, last_meaningful
from tools.process import run_logged, tail_of

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = ROOT / ".cache" / "build.log"
_STEP_MARK = "\n==> "


class SetupError(Exception):
    """One sentence for the person who can act."""


def say(text: str) -> None:
    """One line for the person who waits."""
    print(f"edgespec: {text}", file=sys.stderr, flush=True)


def venv_program(name: str) -> Path:
    """Where .venv has a program of this name, or would have it."""
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def is_for_this_python(pyvenv_cfg: str) -> bool:
    """Whether a pyvenv.cfg is of the Python version (3.11, say) that runs this."""
    version = re.escape(".".join(map(str, sys.version_info[:2])))
    return re.search(rf"^version(_info)?\s*=\s*{version}\b", pyvenv_cfg, re.MULTILINE) is not None


def ensure_venv() -> bool:
    """Whether .venv had to be made anew to have a working pip of this Python's version; raises SetupError."""
    if is_for_this_python(tail_of(VENV / "pyvenv.cfg")) and _has_pip():
        return False
    mend = "run `sudo apt install python3-venv` and the same command again"
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(f"Python's venv module is missing: {mend}.")
    say("creating .venv")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise SetupError(f"Python could not create .venv ({reason}): {mend}.")
    return True


def _has_pip() -> bool:
    if not venv_program("python").exists():
        return False
    return subprocess.run([venv_program("python"), "-c", "import pip"], capture_output=True).returncode == 0


def pip(arguments: list[str], title: str, log: TextIO, variables: dict[str, str] | None = None) -> bool:
    """Whether pip, run inside .venv with its output in the log, succeeded."""
    manners = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_RETRIES": "2"}
    command = [str(venv_program("python")), "-m", "pip", *arguments]
    log.write(f"{_STEP_MARK}{title}\n")
    return run_logged(command, title, log, {**os.environ, **manners, **(variables or {})}) == 0


def failure(what: str, mend: str = "`make clean setup` starts over") -> SetupError:
    """The error for a step that failed: the cause where the log shows a common one, else its last words.

    mend  what to do where the cause is not a common one
    """
    log, step = LOG.relative_to(ROOT), tail_of(LOG).rpartition(_STEP_MARK)[2]
    if known := cause(step):
        return SetupError(f"{what} failed because {known} (log: {log}).")
    lines = "".join(f"\n  | {line}" for line in last_meaningful(step))
    return SetupError(f"{what} failed; the last words of {log} are{lines}\n{mend}.")

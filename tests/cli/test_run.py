"""`edgespec run`: what is on stdout, what is on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgespec.cli import screen
from tests.cli.conftest import FAKE, ROOT, Command

ASK = ("run", "-p", "Tell me about a river.", "--max-tokens", "12", "--seed", "3")
# Names that tools rely on (docs/design.md section 6; timings are llama.cpp's).
KEYS = {
    "": {"text", "model", "finish_reason", "tokens", "seed", "timings", "speculation", "memory", "plan"},
    "timings": {
        "prompt_n",
        "prompt_ms",
        "predicted_n",
        "predicted_ms",
        "predicted_per_second",
        "draft_n",
        "draft_n_accepted",
        "cache_n",
    },
    "speculation": {
        "method",
        "rounds",
        "tokens_per_round",
        "target_ms",
        "draft_ms",
        "overhead_ms",
        "speedup_vs_plain",
        "events",
    },
    "memory": {
        "budget_bytes",
        "free_bytes",
        "program_bytes",
        "margin_bytes",
        "predicted",
        "runtime",
        "measured",
    },
}


# As a user has it: what is written waits in a buffer, which Python empties once more when it leaves.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def edgespec(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgespec.cli", *arguments]


def test_stdout_holds_the_answer_and_a_line_end_and_nothing_else(demo: Command) -> None:
    """Progress, warnings of the runtime and figures would end up in files."""
    text = json.loads(demo(*ASK, "--json").out)["text"]
    outcome = demo(*ASK)
    assert outcome.code == 0
    assert outcome.out.strip()
    assert outcome.out == text + ("" if text.endswith("\n") else "\n")
    assert outcome.err == ""


def test_json_is_one_object_with_every_name_of_the_contract(demo: Command) -> None:
    """Tools read it; one stray line on stdout and none of them can."""
    outcome = demo(*ASK, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert set(result) == KEYS[""]
    assert {part: set(result[part]) for part in ("timings", "speculation", "memory")} == {
        part: KEYS[part] for part in ("timings", "speculation", "memory")
    }
    assert all(set(line) == {"line", "value", "reason"} for line in result["plan"])
    assert result["memory"]["measured"]["rss_bytes"] > 1_000_000
    assert sum(result["memory"]["measured"]["by_device"].values()) == result["memory"]["measured"]["total_bytes"]
    assert result["memory"]["predicted"]["total_bytes"] > 1_000_000


def test_the_figures_of_json_agree_with_each_other(demo: Command) -> None:
    """A round emits its accepted drafts and one token more, but for a last one that was cut."""
    result = json.loads(demo(*ASK, "--json", "--method", "model").out)
    timings, speculation = result["timings"], result["speculation"]
    n = len(result["tokens"])
    assert timings["predicted_n"] == n <= 12
    assert n == timings["draft_n_accepted"] + speculation["rounds"]
    assert timings["draft_n_accepted"] <= timings["draft_n"]
    assert speculation["tokens_per_round"] == n / speculation["rounds"]
    assert speculation["method"] == "model"
    parts = speculation["target_ms"] + speculation["draft_ms"] + speculation["overhead_ms"]
    assert timings["predicted_ms"] == pytest.approx(parts)
    assert timings["predicted_per_second"] == pytest.approx(1e3 * n / timings["predicted_ms"])


def test_json_names_what_ran_and_not_what_was_asked(demo: Command) -> None:
    """`auto` and a drafter that was passed over both end in something else."""
    alone = json.loads(demo(*ASK, "--json", "-d", "none").out)
    assert alone["speculation"]["method"] == "lookup"
    assert ["none", "asked for"] in [[line["value"], line["reason"]] for line in alone["plan"]]
    plain = json.loads(demo(*ASK, "--json", "--method", "plain").out)
    assert plain["speculation"]["method"] == "plain"
    assert plain["timings"]["draft_n"] == 0


def test_the_seed_that_was_drawn_is_told_and_gives_the_same_text_again(demo: Command) -> None:
    """Without it an answer worth keeping could not be had twice."""
    ask = ("run", "-p", "Tell me about a river.", "--max-tokens", "12", "--json", "--exact")
    first = json.loads(demo(*ask).out)
    again = json.loads(demo(*ask, "--seed", str(first["seed"])).out)
    assert again["tokens"] == first["tokens"]


@pytest.mark.parametrize("arguments", [(), ("-p", "-")])
def test_the_question_comes_from_standard_input(fake: Command, arguments: tuple[str, ...]) -> None:
    """With a byte order mark too, as PowerShell writes it."""
    assert fake("run", *arguments, stdin="\ufeffGrüße 你好 🎉".encode()).out == "1 heard: 'Grüße 你好 🎉'\n"


def test_a_question_that_is_given_wins_over_standard_input(fake: Command) -> None:
    """Reading a pipe that nobody closes would wait for ever."""
    assert fake("run", "-p", "hi", stdin=b"other").out == "1 heard: 'hi'\n"


def test_instructions_go_in_front(fake: Command) -> None:
    """They are a message of their own."""
    assert fake("run", "-p", "hi", "-s", "be brief").out == "2 heard: 'hi'\n"


def test_the_environment_sets_a_flag_and_the_flag_wins(fake: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is flag, environment, default."""
    monkeypatch.setenv("EDGESPEC_SEED", "17")
    assert json.loads(fake("run", "-p", "hi", "--json").out)["seed"] == 17
    assert json.loads(fake("run", "-p", "hi", "--json", "--seed", "4").out)["seed"] == 4


def test_warnings_are_on_stderr(fake: Command) -> None:
    """A model without a template answers worse than it could, which the user should know."""
    assert fake("run", "-p", "hi").err == "edgespec: warning: a warning\n"


@pytest.fixture
def ctrl_c_at_the_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = screen.Echo.print

    def print_and_interrupt(self: screen.Echo, text: str) -> None:
        echo(self, text)
        if text == "one ":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(screen.Echo, "print", print_and_interrupt)


@pytest.mark.usefixtures("ctrl_c_at_the_first_piece")
def test_ctrl_c_stops_the_answer_and_keeps_all_that_was_said(fake: Command) -> None:
    """An interrupt that struck between two pieces would lose one."""
    outcome = fake("run", "-p", "wait")
    assert (outcome.code, outcome.out) == (130, "one two three\n")


@pytest.mark.parametrize("when", ["before it is sent", "after it is sent"])
def test_ctrl_c_leaves_json_whole(fake: Command, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """What was computed so far is a result too, and half an object is none; nor may an early Ctrl-C be lost."""
    generate = screen.Supervisor.generate

    def interrupted(*args: Any) -> object:
        if when == "before it is sent":
            signal.raise_signal(signal.SIGINT)
        events = generate(*args)
        if when == "after it is sent":
            signal.raise_signal(signal.SIGINT)
        return events

    monkeypatch.setattr(screen.Supervisor, "generate", interrupted)
    outcome = fake("run", "-p", "wait", "--json")
    result = json.loads(outcome.out)
    assert (outcome.code, result["finish_reason"], result["text"]) == (130, "cancelled", "one two three")


def test_ctrl_c_while_loading_leaves_at_once(fake: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading may take minutes, and there is no answer to keep."""
    monkeypatch.setattr(screen.ProgressLine, "show", lambda *_: signal.raise_signal(signal.SIGINT))
    outcome = fake("run", "-p", "hi", script=("load", "hang"))
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "edgespec: stopped while loading the model\n"


def test_a_death_in_mid_answer_leaves_what_was_printed_on_a_line_of_its_own(fake: Command) -> None:
    """The sentence must not continue the answer."""
    outcome = fake("run", "-p", "count", script=("answer", "9"))
    assert (outcome.code, outcome.out) == (1, "one \n")
    assert "edgespec: the model's process was killed by SIGKILL while answering, after 2 restarts; " in outcome.err


@pytest.mark.parametrize(
    ("prompt", "script", "code", "says"),
    [("burst", (), 3, "7 MiB are wanted"), ("count", ("answer", "9"), 1, "killed by SIGKILL while answering, after 2")],
)
def test_an_error_in_mid_answer_leaves_json_with_what_was_said(
    fake: Command, prompt: str, script: tuple[str, ...], code: int, says: str
) -> None:
    """A tool got nothing of an answer that was nearly done, and no reason it could read."""
    outcome = fake("run", "-p", prompt, "--json", script=script)
    result = json.loads(outcome.out)
    assert (outcome.code, result["finish_reason"], result["text"], result["tokens"]) == (code, "error", "one ", [4])
    assert says in result["error"]
    assert outcome.err.splitlines()[-1] == f"edgespec: {result['error']}"
    assert set(result) == KEYS[""] | {"error"}
    assert [event["kind"] for event in result["speculation"]["events"]] == ["restart"] * (2 * (code == 1))


def test_an_error_in_front_of_the_first_token_is_no_json(fake: Command) -> None:
    """There is no answer to tell of, and a tool must not take an empty one for one."""
    outcome = fake("run", "-p", "overflow", "--json")
    assert (outcome.code, outcome.out) == (3, "")


def test_a_notice_is_a_line_on_stderr_and_the_answer_is_unbroken(fake: Command) -> None:
    """A line end in the middle of a sentence would stand in the file."""
    outcome = fake("run", "-p", "count", script=("answer:1", "9"))
    assert (outcome.code, outcome.out) == (0, "one two three\n")
    assert outcome.err.splitlines() == [
        "edgespec: warning: a warning",
        "edgespec: the model's process was killed by SIGKILL while answering; it starts again with a smaller plan",
    ]


def test_json_lists_notices_as_events_and_has_the_plan_that_answered(fake: Command) -> None:
    """A tool that times answers must see that one had a restart in it; figures of half an answer are of that half."""
    result = json.loads(fake("run", "-p", "count", "--json", script=("answer:1", "9")).out)
    (event,) = result["speculation"]["events"]
    assert set(event) == {"kind", "text", "n_tokens"}
    assert (event["kind"], event["n_tokens"]) == ("restart", 1)
    assert (result["text"], result["tokens"], result["timings"]["predicted_n"]) == ("one two three", [4, 4, 5], 2)
    assert result["timings"]["predicted_per_second"] == 4.0
    assert {"line": "rung", "value": "1", "reason": "restarts"} in result["plan"]


def test_a_terminal_gets_no_control_characters(fake: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may say what clears a screen or types on the user's behalf; a file gets the very text."""
    assert fake("run", "-p", "escape").out == "a\x1b[2Jb\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert fake("run", "-p", "escape").out == "a\ufffd[2Jb\n"


def test_version_names_the_runtime_too(command: Command) -> None:
    """Half of all reports are about the runtime."""
    assert "(llama-cpp-python 0.3" in command("version").out
    assert set(json.loads(command("version", "--json").out)) == {"edgespec", "llama-cpp-python"}


def test_without_a_verb_the_verbs_are_listed(command: Command) -> None:
    """The first thing anybody types."""
    outcome = command()
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in ("chat", "run", "version"))


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_reader_that_leaves_ends_the_answer_quietly() -> None:
    """`edgespec run ... | head` would end in a traceback, or go on computing for nobody."""
    read, write = os.pipe()
    ask = edgespec("run", "-p", "Tell me a long story.")
    face = subprocess.Popen(ask, cwd=ROOT, stdout=write, stderr=-1, env=BUFFERED)
    os.close(write)
    assert os.read(read, 1)
    os.close(read)
    _, err = face.communicate()
    assert (face.returncode, err) == (141, b"")


@pytest.mark.skipif(os.name != "posix", reason="POSIX shells")
@pytest.mark.parametrize(
    ("redirection", "says"),
    [
        (">&-", b"standard output is closed"),
        pytest.param(
            ">/dev/full",
            b"No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux"),
        ),
    ],
)
def test_an_answer_that_cannot_be_written_is_a_failure(redirection: str, says: bytes) -> None:
    """Exit code 0 would tell a script that the answer is in the file."""
    line = f"{sys.executable} -m edgespec.cli version {redirection}"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, env=BUFFERED, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"edgespec: ")
    assert says in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_face_imports_no_runtime() -> None:
    """It would wait for it twice, and die of what kills the worker."""
    code = (
        "import sys, edgespec.cli.app; print([m for m in ('llama_cpp', 'numpy', 'jinja2', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_fake_worker_is_where_the_tests_look_for_it() -> None:
    """Otherwise every test of a death would pass."""
    assert FAKE.is_file()

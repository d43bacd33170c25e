"""`edgespec chat`: what a person at a terminal sees, and what a pipe gets."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from edgespec.cli import chat
from tests.cli.conftest import Command, Terminal

Open = Callable[..., Terminal]
on_a_terminal = pytest.mark.skipif(os.name != "posix", reason="terminals are POSIX")


@pytest.fixture
def talk(terminal: Open) -> Terminal:
    """A conversation with the fake worker, at its first prompt."""
    opened = terminal("chat")
    opened.expect(r"fake with drafter fake-draft: a note\. /help lists commands\.\r\n> ")
    return opened


# --- from a pipe


def test_each_line_of_a_pipe_is_a_turn_of_one_conversation(fake: Command) -> None:
    """Empty lines are nobody's question, and commands are for people."""
    outcome = fake("chat", stdin=b"hi\n\n/help\nbye")
    assert outcome.code == 0
    assert outcome.out == "1 heard: 'hi'\n3 heard: '/help'\n5 heard: 'bye'\n"


def test_instructions_stay_in_front_of_every_turn(fake: Command) -> None:
    """They must not be repeated, nor lost after the first answer."""
    assert fake("chat", "-s", "be brief", stdin=b"hi\nbye\n").out == "2 heard: 'hi'\n4 heard: 'bye'\n"


def test_a_refusal_ends_a_pipe_with_its_exit_code(fake: Command) -> None:
    """A script would take the next answer for the one that is missing."""
    outcome = fake("chat", stdin=b"hi\noverflow\nnever\n")
    assert (outcome.code, outcome.out) == (3, "1 heard: 'hi'\n")
    assert "exceeds the available context size" in outcome.err


def test_the_demo_answers_a_pipe(demo: Command) -> None:
    """The whole path, from lines to text."""
    outcome = demo("chat", "--max-tokens", "8", "--temperature", "0", stdin="Grüße 你好 🎉\nAnd then?\n".encode())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.strip()


# --- at a terminal


@on_a_terminal
def test_ctrl_c_stops_an_answer_the_talk_goes_on_and_a_second_in_a_row_leaves(talk: Terminal) -> None:
    """The answer so far is part of the conversation, and the exit code says that it was interrupted."""
    talk.send("wait")
    talk.expect("one ")
    talk.ctrl_c()
    talk.expect(r"two three\r\n3 tokens, 6\.0 per second, 1\.50 a pass \(model\); prompt 7 new \+ 2 reused")
    talk.expect("> ")
    talk.send("hi")
    talk.expect("3 heard: 'hi'\r\n.*> ")
    talk.ctrl_c_at_the_prompt()
    talk.expect(r"\(Ctrl-C once more leaves\)\r\n.*> ")
    talk.ctrl_c_at_the_prompt()
    assert talk.leave()[0] == 130


@on_a_terminal
def test_one_ctrl_c_after_a_stopped_answer_leaves(talk: Terminal) -> None:
    """It is the second in a row; only a line in between starts the count anew."""
    talk.send("wait")
    talk.expect("one ")
    talk.ctrl_c()
    talk.expect("2 reused.*> ")
    talk.ctrl_c_at_the_prompt()
    assert talk.leave()[0] == 130


@on_a_terminal
def test_a_second_ctrl_c_leaves_an_answer_that_does_not_stop(talk: Terminal) -> None:
    """A pass may take a minute on a large model, or hang."""
    talk.send("stubborn")
    talk.expect("one ")
    talk.ctrl_c()
    talk.expect("no ")
    talk.ctrl_c()
    code, last = talk.leave()
    assert code == 130
    assert last.endswith("\r\nedgespec: stopped\r\n")


@on_a_terminal
def test_ctrl_c_while_the_model_is_loaded_leaves(terminal: Open) -> None:
    """There is nothing to keep."""
    loading = terminal("chat", script=("load", "hang"))
    loading.expect("loading fake  50%")
    loading.ctrl_c()
    code, last = loading.leave()
    assert code == 130
    assert "edgespec: stopped while loading the model" in last


@on_a_terminal
def test_ctrl_c_drops_a_line_that_was_begun(talk: Terminal) -> None:
    """As in a shell; neither is it sent nor does the conversation end, not even right after a stopped answer."""
    talk.send("wait")
    talk.expect("one ")
    talk.ctrl_c()
    talk.expect("> ")
    talk.type("half a line")
    talk.expect("half a line")
    talk.ctrl_c_at_the_prompt()
    talk.expect("> ")
    talk.send("hi")
    talk.expect("3 heard: 'hi'")


@on_a_terminal
def test_an_answer_that_was_stopped_before_it_began_leaves_no_trace(talk: Terminal) -> None:
    """An empty answer in the conversation would teach the model to say nothing."""
    talk.send("silent")
    talk.expect("reading the prompt  25%")
    talk.ctrl_c()
    talk.expect("stopped before the answer began.*> ")
    talk.send("hi")
    talk.expect("1 heard: 'hi'")


@on_a_terminal
def test_a_paste_of_several_lines_is_one_message(talk: Terminal) -> None:
    """Each line would be answered by itself, the last one while the user still reads the first."""
    talk.type("\x1b[200~first\nsecond\x1b[201~")
    talk.expect("second")
    talk.type("\r")
    talk.expect(r"1 heard: 'first\\nsecond'")


@on_a_terminal
def test_what_is_typed_arrives_as_it_was_typed(talk: Terminal) -> None:
    """Line editing counts in characters and terminals in bytes."""
    talk.send("Grüße 你好 🎉x\x7f")
    talk.expect("1 heard: 'Grüße 你好 🎉'")


def test_a_line_that_is_not_utf8_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal set to another encoding sends bytes that are no text; Python makes lone surrogates of them."""
    monkeypatch.setattr("builtins.input", lambda _prompt: "caf\udce9")
    assert chat._ask() == ""
    assert "not UTF-8 text and was not sent" in capsys.readouterr().err


@on_a_terminal
def test_a_refusal_is_said_and_the_talk_goes_on(talk: Terminal) -> None:
    """An hour of conversation must not end because one message is too long."""
    talk.send("overflow")
    talk.expect("exceeds the available context size of 128.*your message was not sent.*> ")
    talk.send("hi")
    talk.expect("1 heard: 'hi'")


@on_a_terminal
def test_a_restart_is_told_below_the_line_that_was_begun_and_the_answer_goes_on(terminal: Open) -> None:
    """The sentence must not stand in the middle of the answer's line, nor may progress wipe that line away."""
    talk = terminal("chat", script=("answer:1", "11"))
    talk.expect("> ")
    talk.send("count")
    says = "edgespec: the model's process was killed by SIGSEGV while answering; it starts again with a smaller plan"
    talk.expect(f"one \r\n{says}\r\n\r\x1b\\[Kloading fake  50%\r\x1b\\[Ktwo three\r\n3 tokens, 4\\.0 per second")
    talk.expect("> ")
    talk.send("/plan")
    talk.expect("rung +1 ")


@on_a_terminal
def test_three_deaths_leave_message_and_answer_in_the_conversation_and_the_next_message_is_answered(
    terminal: Open,
) -> None:
    """An hour of talk must not end because the model's process did."""
    talk = terminal("chat", script=("answer:3", "11"))
    talk.expect("> ")
    talk.send("count")
    says = "killed by SIGSEGV while answering, after 2 restarts; try again; your message and the answer so far are kept"
    assert "Traceback" not in talk.expect(f"{says}.*> ")
    talk.send("hi")
    talk.expect("3 heard: 'hi'\r\n.*> ")
    talk.type("/exit\r")
    assert talk.leave()[0] == 0


@on_a_terminal
def test_an_error_in_mid_answer_keeps_message_and_answer(talk: Terminal) -> None:
    """It was called not sent though its answer stood on the screen, and the next turn knew neither."""
    talk.send("burst")
    kept = "your message and the answer so far are kept: type on, or /clear starts anew"
    assert "not sent" not in talk.expect(f"one .*7 MiB are wanted and 5 are free; close other programs; {kept}.*> ")
    talk.send("hi")
    talk.expect("3 heard: 'hi'")


@on_a_terminal
@pytest.mark.parametrize(("second", "heard"), [("hi", r"1 heard: 'first\\n\\nhi'"), ("first", "1 heard: 'first'")])
def test_a_message_that_was_not_answered_goes_in_front_of_the_next(terminal: Open, second: str, heard: str) -> None:
    """Two messages in a row are refused by many chat templates, and what was typed would be gone; typed again it must
    not stand there twice."""
    talk = terminal("chat", script=("ask:3", "9"))
    talk.expect("> ")
    talk.send("first")
    talk.expect("after 2 restarts;.*your message is kept and goes in front of the next one.*> ")
    talk.send(second)
    talk.expect(heard)
    talk.expect("> ")


def test_a_worker_that_keeps_dying_ends_a_pipe_with_its_exit_code(fake: Command) -> None:
    """A script would take the next answer for the one that is missing."""
    outcome = fake("chat", stdin=b"count\nhi\n", script=("answer", "9"))
    assert (outcome.code, outcome.out) == (1, "one \n")


@on_a_terminal
def test_commands_are_not_sent_to_the_model(talk: Terminal) -> None:
    """Nor is one that does not exist, which is most likely a slip; a space in front says that it is meant."""
    for command, says in (
        ("/help", "/clear  forget"),
        ("/stats", "nothing was answered yet"),
        ("/plan", r"rows +8 \(tree\) +a default"),
        ("/cler", "/cler is no command"),
    ):
        talk.send(command)
        talk.expect(says + ".*> ")
    talk.send(" /usr is a folder")
    talk.expect("1 heard: '/usr is a folder'.*> ")
    talk.send("/stats")
    talk.expect("1 tokens, 2.0 per second.*> ")


@on_a_terminal
def test_a_blank_line_is_not_sent(talk: Terminal) -> None:
    """People press Enter to see whether anything is alive."""
    talk.send("")
    talk.send("  ")
    talk.send("hi")
    talk.expect("1 heard: 'hi'")


@on_a_terminal
def test_clear_forgets_the_conversation(talk: Terminal) -> None:
    """What remains of it would go on filling the context."""
    talk.send("hi")
    talk.expect("1 heard: 'hi'.*> ")
    talk.send("/clear")
    talk.expect("starts anew.*> ")
    talk.send("hi")
    talk.expect("1 heard: 'hi'")


@on_a_terminal
@pytest.mark.parametrize("farewell", ["/exit\r", "/bye\r", "\x04"], ids=["exit", "bye", "ctrl-d"])
def test_leaving_on_purpose_is_success(talk: Terminal, farewell: str) -> None:
    """Only an interrupt has an exit code of its own."""
    talk.type(farewell)
    assert talk.leave()[0] == 0

"""The text of a stream of ids does not depend on how it was cut, in bytes, tokens or rounds."""

from __future__ import annotations

import itertools
import random

import pytest

from edgespec.chat.text import TextStream, decode
from edgespec.errors import BadSetting

BYTES = [bytes([b]) for b in range(256)]
FAMILY = "👩\u200d👩\u200d👧 e\u0301 ä ß 漢字 🇩🇪\r\n"


def run(parts: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    """What is printed after each part, and at the end by flush; each part is one token."""
    stream = TextStream(parts, stop)
    printed = [stream.feed([i]) for i in range(len(parts))]
    return [*printed, stream.flush()]


def split(data: bytes, rng: random.Random) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(len(data) + 1)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]


def naive(text: str, stop: tuple[str, ...]) -> str:
    """Whole-text search, character by character: the text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


def test_every_two_cuts_of_a_text_print_it_whole() -> None:
    """An emoji has four bytes and a family of them 18 code points: each boundary may fall between tokens."""
    data = FAMILY.encode()
    for a, b in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        printed = run([data[:a], data[a:b], data[b:]])
        assert "".join(printed) == FAMILY
        assert not any("\ufffd" in part for part in printed)


def test_a_character_is_printed_with_its_last_byte() -> None:
    """Holding back too much is as wrong as too little: text would lag behind the tokens."""
    assert run([b"a\xf0", b"\x9f", b"\x98", b"\x80b"]) == ["a", "", "", "😀b", ""]


def test_invalid_bytes_print_as_a_decoder_of_the_whole_would() -> None:
    """Random bytes, cut at random: a replacement too early or too late shows here."""
    rng = random.Random(1)
    alphabet = [b"a", b"\x80", b"\xbf", b"\xc0", b"\xc3", b"\xe2\x82", b"\xed\xa0"]
    alphabet += [b"\xf0\x9f", b"\xf4\x90", b"\xff"]
    for _ in range(2000):
        data = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 9)))
        assert "".join(run(split(data, rng))) == data.decode("utf-8", errors="replace")


def test_a_replacement_comes_only_when_certain() -> None:
    """0xE2 0x82 may become the euro sign; it is wrong only once another byte comes, or the end."""
    assert run([b"\xe2", b"\x82", b"\xac"]) == ["", "", "€", ""]
    assert run([b"\xe2", b"\x82", b"x"]) == ["", "", "\ufffdx", ""]
    assert run([b"\xe2", b"\x82"]) == ["", "", "\ufffd"]
    assert run([b"\xff"]) == ["\ufffd", ""]


def test_control_tokens_print_nothing() -> None:
    """Their pieces are empty, also in the middle of a character."""
    assert run([b"", b"\xc3", b"", b"\xa4", b""]) == ["", "", "", "ä", "", ""]


def test_stop_strings_cut_as_a_search_of_the_whole_text_would() -> None:
    """Few letters make overlaps, false beginnings and several stops at a time; every cut must agree."""
    rng = random.Random(2)
    n_stopped = 0
    for _ in range(4000):
        text = "".join(rng.choice("abä") for _ in range(rng.randrange(1, 14)))
        stop = tuple("".join(rng.choice("abä") for _ in range(rng.randrange(1, 5))) for _ in range(rng.randrange(4)))
        printed = "".join(run(split(text.encode(), rng), stop))
        assert printed == naive(text, stop), (text, stop)
        n_stopped += printed != text
    assert n_stopped > 1000


def test_every_cut_of_a_stop_string_stops() -> None:
    """The usual one, in two, three and more tokens."""
    data = b"yes<|end|>no"
    for cuts in itertools.combinations(range(1, len(data)), 3):
        parts = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
        assert "".join(run(parts, ("<|end|>", "User:"))) == "yes"


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    """The text must not lag by the length of the longest stop string, only by what matches so far."""
    assert run([b"ab", b"U", b"se", b"d ", b"Us"], ("User:",)) == ["ab", "", "", "Used ", "", "Us"]
    assert run([b"aa", b"a", b"b"], ("aab",)) == ["", "a", "", ""]


def test_the_stop_string_that_is_complete_first_wins() -> None:
    """ "bc" is there before "abcd" is: waiting for the longer one would depend on the cut."""
    for parts in ([b"abcd"], [b"abc", b"d"], [b"a", b"b", b"c", b"d"]):
        assert "".join(run(parts, ("abcd", "bc"))) == "a"
    assert "".join(run([b"xabc"], ("bc", "abc"))) == "x", "of two that end together, the longer"


def test_nothing_comes_after_a_stop() -> None:
    """A round emits several tokens: those behind the stop string are in the same call or the next."""
    stream = TextStream(BYTES, ("##",))
    assert not stream.stopped
    assert stream.feed(b"one##two") == "one"
    assert stream.stopped
    assert stream.feed(b"three") == ""
    assert stream.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    """It is found everywhere: every answer would be empty."""
    with pytest.raises(BadSetting, match="empty"):
        TextStream(BYTES, ("a", ""))


def test_decode_is_the_stream_s_text() -> None:
    """Prompts compare an answer's content with its ids by it."""
    rng = random.Random(3)
    for _ in range(300):
        data = rng.randbytes(rng.randrange(12))
        assert decode(BYTES, data) == "".join(run(split(data, rng) if data else [b""]))

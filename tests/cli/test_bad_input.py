"""Whatever is wrong with flags, files or input: one sentence that says what to do, an exit code, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgespec
from tests.cli.conftest import Command, sentence
from tests.gguf.files import F32, META, WEIGHTS, gguf

DEMO = Path(edgespec.__file__).parent / "demo" / "demo.gguf"
WORD = "a few words "
FILES = {
    "text.gguf": b"this is a text\n" * 100,
    "empty.gguf": b"",
    "cut.gguf": DEMO.read_bytes()[:1_000_000],
    "cut-in-the-header.gguf": DEMO.read_bytes()[:1000],
    "vocabulary.gguf": gguf(weights=()),
    "embedding.gguf": gguf({**META, "llama.pooling_type": 1}),
    "bert.gguf": gguf({**META, "general.architecture": "bert"}),
    "unlayered.gguf": gguf(),
    "hollow.gguf": gguf(
        {**META, "llama.block_count": 1, "llama.embedding_length": 32, "llama.attention.head_count": 1},
        (*WEIGHTS, ("blk.0.attn_k.weight", (32, 32), F32, 4096)),
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("missing.gguf", 4, "there is no file missing.gguf; check the path"),
        ("demi", 4, "no model has the name 'demi'; did you mean demo?"),
        ("", 4, "no model is named; name a .gguf file or one of: demo"),
        ("./", 4, "is a directory; name the .gguf file itself"),
        ("text.gguf", 1, "is not a GGUF model"),
        ("empty.gguf", 1, "is empty (0 bytes); download it again"),
        ("cut.gguf", 1, "is cut short"),
        ("cut-in-the-header.gguf", 1, "is cut short or damaged"),
        ("vocabulary.gguf", 1, "holds only a vocabulary and no weights; name the model's own .gguf file"),
        ("embedding.gguf", 1, "is an embedding model (llama)"),
        ("bert.gguf", 1, "is an embedding model (bert)"),
        ("unlayered.gguf", 1, "does not say its block count (llama.block_count is None)"),
        ("hollow.gguf", 1, "the runtime could not load hollow.gguf"),
    ],
)
def test_a_model_that_cannot_be_used(demo: Command, files: Path, model: str, code: int, says: str) -> None:
    """The refusal comes from another process: of the list of names, the header's reader or the runtime itself."""
    named = str(files / model) if model in FILES else model
    assert says in sentence(demo("run", "-p", "hi", "-m", named), code)


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        ("demo-xdraft", "another vocabulary than demo (3072 against 8192 tokens"),
        ("missing.gguf", "there is no file missing.gguf"),
        ("text.gguf", "is not a GGUF model"),
        ("hollow.gguf", "the runtime could not load hollow.gguf"),
        ("", "no model is named"),
    ],
)
def test_a_drafter_that_was_named_and_cannot_draft(demo: Command, files: Path, draft: str, says: str) -> None:
    """Answering without it would hide that the user's choice had no effect."""
    named = str(files / draft) if draft in FILES else draft
    assert says in sentence(demo("run", "-p", "hi", "-d", named), 5)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--temperature", "-1"), 2, "temperature is -1 but must be 0 or more"),
        (("--temperature", "nan"), 2, "temperature is nan but must be 0 or more"),
        (("--temperature", "inf"), 2, "temperature is inf"),
        (("--top-p", "1.5"), 2, "top-p is 1.5 but must be between 0 and 1"),
        (("--top-k", "-3"), 2, "top-k is -3"),
        (("--seed", "-1"), 2, "seed is -1 but must be between 0 and 18446744073709551615"),
        (("--max-tokens", "0"), 2, "--max-tokens is 0 but must be at least 1"),
        (("--nodes", "100000"), 2, "--nodes is 100000 but must be between 1 and 512"),
        (("--nodes", "0"), 2, "--nodes is 0"),
        (("--depth", "0"), 2, "--depth is 0"),
        (("--threads", "0"), 2, "--threads is 0"),
        (("--context", "0"), 2, "--context is 0"),
        (("--kv", "q5"), 2, "--kv q5 is unknown; use one of f16, q8_0, q4_0"),
        (("--shape", "star"), 2, "--shape star is unknown; use one of auto, chain, tree"),
        (("--method", "magic"), 2, "--method magic is unknown; use one of auto, plain, model, parallel"),
        (("--method", "plain", "-d", "demo-draft"), 2, "--method plain uses no drafter, but -d demo-draft names one"),
        (("--method", "model", "-d", "none"), 2, "--method model needs a drafter, but -d none forbids one"),
        (("--temprature", "1"), 2, "no such option: --temprature; did you mean --temperature?"),
        (("--zzzz",), 2, "no such option: --zzzz; `edgespec run --help` lists what there is"),
        (("--nodes", "many"), 2, "invalid value for '--nodes'"),
        (("--seed",), 2, "requires an argument"),
        (("surplus",), 2, "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_flag_that_cannot_be_used(fake: Command, flags: tuple[str, ...], code: int, says: str) -> None:
    """These are found before a model is looked for."""
    assert says in sentence(fake("run", "-p", "hi", *flags, script=("start", "9")), code)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--context", "4096"), 2, "--context 4096 is beyond the 2048 tokens this model was trained for"),
        (("--context", "3"), 3, "exceeds the available context size of 3; shorten it or raise --context (up to 2048)"),
        (("--exact", "--nodes", "33"), 2, "--nodes 33 is more than the 32 rows a pass may have here; use 32 or less"),
        (("--nodes", "1", "-d", "demo-draft"), 2, "--nodes 1 leaves no room for a draft; use 2 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_flag_that_this_model_cannot_meet(demo: Command, flags: tuple[str, ...], code: int, says: str) -> None:
    """Only the model's own file tells, and for some of them only once it is loaded."""
    outcome = demo("run", "-p", "hi", *flags)
    assert says in sentence(outcome, code)


def test_a_prompt_longer_than_the_context(demo: Command) -> None:
    """Cutting it silently would answer another question."""
    said = sentence(demo("run", stdin=WORD.encode() * 2000), 3)
    assert "which exceeds the available context size of 2048; shorten it\n" in said


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("-p", ""), b"", "the prompt is empty"),
        (("-p", " \n"), b"", "the prompt is empty"),
        ((), b"", "the prompt is empty"),
        ((), b"caf\xe9 au lait", "standard input is not UTF-8 text (byte 3 of 12); convert it"),
        (("-p", "-"), "hi".encode("utf-16"), "standard input is not UTF-8 text"),
        (("-p", "caf\udce9"), b"", "the prompt is not UTF-8 text"),
    ],
)
def test_a_prompt_that_is_no_text(fake: Command, arguments: tuple[str, ...], stdin: bytes, says: str) -> None:
    """An undecodable byte arrives as a lone surrogate in an argument, and raw on standard input."""
    assert says in sentence(fake("run", *arguments, stdin=stdin, script=("start", "9")), 2)


def test_an_endless_standard_input(fake: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`yes | edgespec run` must not fill the memory before it finds the prompt too long."""
    monkeypatch.setattr("edgespec.cli.run.MAX_INPUT_BYTES", 1000)
    assert "longer than 1,000 bytes" in sentence(fake("run", stdin=b"y" * 2000), 2)


def test_a_line_of_a_conversation_that_is_not_utf8(fake: Command) -> None:
    """What came before it was answered; the rest cannot be trusted to be text."""
    outcome = fake("chat", stdin=b"hi\ncaf\xe9\nnever\n")
    assert (outcome.code, outcome.out) == (2, "1 heard: 'hi'\n")
    assert "standard input is not UTF-8 text (byte 3 of a line)" in outcome.err


def test_a_verb_that_is_none(command: Command) -> None:
    """typer's own messages are boxes over several lines."""
    assert sentence(command("rn"), 2) == "edgespec: no such command 'rn'; did you mean 'run'?\n"


def test_a_setting_of_the_environment_names_its_variable(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would look for the reason in the flags they gave."""
    monkeypatch.setenv("EDGESPEC_NODES", "many")
    assert "EDGESPEC_NODES" in sentence(command("run", "-p", "hi"), 2)

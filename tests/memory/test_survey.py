"""What a plan is made from: rooms and margins of a machine, sums of parts, and what no plan could meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgespec
from edgespec.backends.llama_cpp.devices import Device
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.errors import BackendError, BadSetting, DoesNotFit
from edgespec.memory import forecast as forecasting
from edgespec.memory import survey
from edgespec.memory.configuration import Configuration, DraftModel, Placement, as_opened
from edgespec.memory.footprint import CPU, Footprint, Item
from edgespec.memory.forecast import Forecast
from edgespec.memory.host import Host
from edgespec.memory.predict import Part, predict
from edgespec.memory.pressure import Reading
from edgespec.memory.problem import Room
from edgespec.memory.sizes import GIB, MIB
from edgespec.memory.source import Source, read_source
from edgespec.memory.survey import Known, Machine, less_margin, look, problem
from edgespec.settings import Settings
from edgespec.types import Choice, ContextSpec

DEMO = Path(edgespec.__file__).parent / "demo"
LEANEST = Footprint((Item("weights", CPU, 60 * MIB, ""),))
HOST = Host(program_bytes=30 * MIB, margin_bytes=8 * MIB)
TARGET, DRAFT = ContextSpec(2048, max_nodes=4), ContextSpec(2048, max_nodes=16, kv_type="q4_0")
DRAFTING = Configuration(TARGET, Choice("model", 4, 3, 1), draft=DraftModel("demo-draft", DRAFT))


def source(name: str) -> Source:
    return read_source(name, DEMO / f"{name}.gguf")


def forecast(host: Host = HOST) -> Forecast:
    return Forecast(host, source("demo"), {"demo-draft": source("demo-draft")}, LoadOptions())


def asked(settings: Settings, cpu: int = GIB, gpu: int = 0, shared: bool = False, draft: bool = False):
    rooms = (Room(CPU, cpu), *([Room("Metal", gpu)] if gpu else []))
    machine = Machine(HOST, rooms, "on this machine", shared)
    drafter = source("demo-draft") if draft else None
    return problem(settings, machine, source("demo"), drafter, Known(), lambda _: LEANEST)


# --- the machine


@pytest.mark.parametrize(("free", "left"), [(GIB, GIB - 64 * MIB), (20 * GIB, 19 * GIB), (10 * MIB, 0)])
def test_a_margin_of_free_memory_is_left_alone(free: int, left: int) -> None:
    """The larger of 64 MiB and a twentieth. Fails when edgespec takes the last byte and the system begins to swap, or
    when little room counts as less than none."""
    assert less_margin(free) == left


def test_every_device_is_a_room_less_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's room holds what its processes take already: a prediction has that too. Fails when it counts
    twice, or predictions may err by nothing."""

    found = (Device("CUDA0", "a card", 20 * GIB, 24 * GIB, shared=False),)
    monkeypatch.setattr(survey, "read_once", lambda: Reading(2 * GIB, "in control group /small"))
    monkeypatch.setattr(survey.devices, "devices", lambda: found)
    machine = look(False, n_threads=3, program_bytes=50 * MIB, weight_bytes=400 * MIB)
    assert machine.host == Host(devices=("CUDA0",), n_threads=3, program_bytes=50 * MIB, margin_bytes=10 * MIB)
    assert machine.rooms == (Room(CPU, less_margin(2 * GIB) + 60 * MIB), Room("CUDA0", 19 * GIB))
    assert (machine.limit, machine.shared) == ("in control group /small beside a margin of 102 MiB", False)
    monkeypatch.setattr(survey.devices, "devices", lambda: (replace(found[0], shared=True),))
    assert look(False, 3, 0, 0).shared


# --- the forecast


def test_a_forecast_is_the_sum_of_its_parts() -> None:
    """By role, what is opened for the whole context, and what lies beside models. Fails when a part is left out,
    counted twice, or taken from the memory of another one."""
    opened = as_opened(DRAFTING, 2048)
    assert opened.draft is not None
    target = predict(Part(source("demo").shape, opened.target), HOST)
    draft = predict(Part(source("demo-draft").shape, opened.draft.context, role="draft "), HOST)
    once = forecast()
    for _ in range(2):
        assert once(DRAFTING).total_bytes == target.total_bytes + draft.total_bytes + 38 * MIB
    plain = Configuration(replace(TARGET, max_nodes=1))
    assert once(plain).total_bytes == predict(Part(source("demo").shape, plain.target), HOST).total_bytes + 38 * MIB
    assert (once(DRAFTING).of("program"), once(DRAFTING).of("margin")) == (30 * MIB, 8 * MIB)


def test_bytes_of_a_configuration_are_of_it_as_it_is_written() -> None:
    """A ladder asks for what is open now, and for differences. Fails when the drafter's context grows once more, or
    programs that no step frees count as freed."""
    target = predict(Part(source("demo").shape, TARGET), HOST)
    short = replace(DRAFT, n_ctx=500)
    draft = predict(Part(source("demo-draft").shape, short, role="draft "), HOST)
    written = replace(DRAFTING, draft=DraftModel("demo-draft", short))
    assert forecast().bytes_of(written) == target.total_bytes + draft.total_bytes
    assert forecast().bytes_of(written) < forecast().bytes_of(as_opened(written, 2048))


def test_a_few_cells_in_use_take_less_than_all() -> None:
    """What is weighed after some text is compared with this. Fails when unused cells count, or used ones do not."""
    opened = as_opened(DRAFTING, 2048)
    whole = forecast().at(opened, {})
    assert whole == forecast().bytes_of(opened)
    few = forecast().at(opened, {"": 100, "draft ": 100})
    more = forecast().at(opened, {"": 1000, "draft ": 100})
    assert few < more < whole
    assert forecast().at(opened, {"": 1000}) > more


def test_what_the_runtime_does_not_tell_is_guessed_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search predicts by the thousand, and each question to the runtime takes a process. Fails when a model without
    figures cannot be planned, or every configuration asks anew."""
    times = 0

    def refuses(*_: object) -> None:
        nonlocal times
        times += 1
        raise BackendError("no figures")

    monkeypatch.setattr(forecasting, "surface", refuses)
    host = replace(HOST, devices=("CUDA0",))
    unknown = replace(source("demo"), shape=replace(source("demo").shape, llama_like=False))
    placed, once = Placement(3), Forecast(host, unknown, {}, LoadOptions())
    for n_ctx in (512, 1024):
        spec = ContextSpec(n_ctx)
        guessed = predict(Part(unknown.shape, spec, placed), host).total_bytes
        assert once.bytes_of(Configuration(spec, placement=placed)) == guessed
    assert times == 1


# --- what no plan could meet


def test_a_device_that_shares_the_processors_memory_makes_no_second_room() -> None:
    """Fails when weights on the device and a cache beside it are given the same bytes twice."""
    apart, shared = asked(Settings(), GIB, GIB), asked(Settings(), GIB, GIB, shared=True)
    assert (apart.free_bytes, shared.free_bytes) == (2 * GIB, GIB)
    assert asked(Settings(budget=300 * MIB), GIB, GIB, shared=True).free_bytes == 300 * MIB


def test_a_context_beyond_the_trained_one_is_refused() -> None:
    """Fails when a model is made to talk nonsense without a word."""
    with pytest.raises(BadSetting, match=r"--context 2049 is beyond the 2048 tokens .* use 2048 or less"):
        asked(Settings(context=2049))
    assert asked(Settings(context=2048)).default_context == 2048


@pytest.mark.parametrize("method", ["auto", "model"])
def test_rows_that_no_pass_may_have_are_refused_whether_or_not_drafting_pays(method: str) -> None:
    """Fails when auto answers plainly and the user's own number had no effect."""
    many = Settings(method=method, exact=True, nodes=33)
    with pytest.raises(BadSetting, match="--nodes 33 is more than the 32 rows a pass may have here; use 32 or less"):
        asked(many, draft=True)
    for other in (replace(many, nodes=32), replace(many, kv="q8_0"), replace(many, exact=False)):
        assert asked(other, draft=True).settings == other
    plain = Settings(method="plain", exact=True, nodes=33)
    assert asked(plain, draft=True).settings == plain


def test_a_budget_below_the_weights_says_what_is_needed_what_is_there_and_what_would_do() -> None:
    """12.8 MiB of weights and 38 beside them. Fails when a search of minutes ends in a riddle."""
    with pytest.raises(DoesNotFit) as caught:
        asked(Settings(budget=50 * MIB))
    assert str(caught.value) == (
        "the weights of demo alone take 12.8 MiB and the programs 38.0 MiB, and the budget is 50.0 MiB; "
        "raise --budget to 60MiB, or use a model of at most 12.0 MiB"
    )
    with pytest.raises(DoesNotFit, match=r"and 20\.0 MiB are free on this machine; .* or use another machine"):
        asked(Settings(), cpu=20 * MIB)
    assert asked(Settings(budget=51 * MIB)).free_bytes == 51 * MIB


# --- room, with and without a budget

PROGRAMS = 80 * MIB


def machine_of(monkeypatch: pytest.MonkeyPatch, free_bytes: int, budget: int | None) -> survey.Machine:
    monkeypatch.setattr(survey, "read_once", lambda: Reading(free_bytes, "in control group /small"))
    monkeypatch.setattr(survey.devices, "devices", list)
    return survey.look(False, 1, PROGRAMS, 0, budget)


def test_without_a_budget_a_margin_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free does not hold the programs any more, what is planned does: 100 - 64 + 80 + 8 for errors."""
    machine = machine_of(monkeypatch, 100 * MIB, None)
    assert machine.free_bytes == 124 * MIB
    assert machine.limit == "in control group /small beside a margin of 64.0 MiB"


def test_less_free_than_the_margin_is_less_machine_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off at the programs, 88 MiB were said to be free in a group of 60: 10 - 64 + 80 + 8."""
    assert machine_of(monkeypatch, 10 * MIB, None).free_bytes == 34 * MIB
    assert machine_of(monkeypatch, 0, None).free_bytes == 24 * MIB


def test_a_budget_is_its_own_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone gives a container 128 MiB and names them: with a margin on top half of that could not be used."""
    machine = machine_of(monkeypatch, 40 * MIB, 128 * MIB)
    assert machine.free_bytes == 128 * MIB
    assert machine.limit == "in control group /small"

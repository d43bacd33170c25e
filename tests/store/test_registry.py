"""Names, paths and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.errors import ModelNotFound
from edgespec.gguf.inspect import inspect
from edgespec.store import paths, registry


def test_every_name_is_a_model_that_can_be_run() -> None:
    """A renamed file or a slip in models.toml would show only when a user asks for that name."""
    for name in registry.names():
        entry = registry.resolve(name)
        assert inspect(entry.path).path == entry.path
        assert entry.licence == "Apache-2.0"
        assert "knows nothing" in entry.note
        for draft in entry.drafts:
            assert inspect(registry.resolve(draft).path).n_vocab == inspect(entry.path).n_vocab


def test_demo_drafts_with_demo_draft() -> None:
    """The default of everything; the drafter with another vocabulary must not slip in."""
    demo = registry.resolve("demo")
    assert demo.name == "demo"
    assert demo.path.name == "demo.gguf"
    assert demo.drafts == ("demo-draft",)
    assert registry.resolve(" Demo-XDraft ").drafts == ()


def test_a_mask_is_read_from_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For files that do not name it themselves. Fails when such a drafter can never draft in parallel."""
    (tmp_path / "models.toml").write_text('[d]\nfile = "d.gguf"\nmask_token_id = 7\n[e]\nfile = "e.gguf"\n')
    monkeypatch.setattr(registry, "_table", lambda: tmp_path / "models.toml")
    found = registry._entries.__wrapped__()
    assert (found["d"].mask_token_id, found["e"].mask_token_id) == (7, None)


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    """Somebody who mistypes a name needs the name, somebody who guesses needs the list."""
    with pytest.raises(ModelNotFound, match=r"'demo-draf'; did you mean demo-draft"):
        registry.resolve("demo-draf")
    with pytest.raises(ModelNotFound, match=r"known names are demo, demo-draft, demo-xdraft"):
        registry.resolve("llama3-8b-q4")
    with pytest.raises(ModelNotFound, match=r"no model is named"):
        registry.resolve(" ")


def test_a_path_is_not_looked_up_as_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """demo.gguf and ./demo are files even where a model has that name."""
    monkeypatch.chdir(tmp_path)
    for missing in ("demo.gguf", "./demo", "user/repo:Q4_K_M", "~/no-such.gguf", "a\0/b"):
        with pytest.raises(ModelNotFound, match="no file"):
            registry.resolve(missing)
    (tmp_path / "demo").touch()
    assert registry.resolve("./demo").path == Path("demo")
    assert registry.resolve("demo").path.name == "demo.gguf"


def test_a_file_named_without_separator_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m weights.bin` in its folder looks right to the user and would otherwise only list names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ModelNotFound, match=r"\./weights\.bin"):
        registry.resolve("weights.bin")


def test_a_bundled_file_that_is_missing_is_the_installation_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the sentence would send the user to look for a path inside site-packages."""
    broken = registry.Entry("demo", tmp_path / "demo.gguf")
    monkeypatch.setattr(registry, "_entries", lambda: {"demo": broken})
    with pytest.raises(ModelNotFound, match="install edgespec again"):
        registry.resolve("demo")


def test_the_wheel_s_models_toml_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In site-packages the folder above the package is everybody's: another models.toml may lie there."""
    package = tmp_path / "edgespec"
    package.mkdir()
    monkeypatch.setattr(registry, "_PACKAGE", package)
    with pytest.raises(ModelNotFound, match="install edgespec again"):
        registry._table()
    (tmp_path / "models.toml").touch()
    assert registry._table() == tmp_path / "models.toml"
    (package / "models.toml").touch()
    assert registry._table() == package / "models.toml"


@pytest.mark.parametrize("kind", ["config", "data", "cache", "state"])
def test_the_environment_moves_a_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and containers rely on it; an empty variable must not mean the current folder."""
    folder = getattr(paths, f"{kind}_dir")
    variable = f"EDGESPEC_{kind.upper()}_DIR"
    monkeypatch.delenv(variable, raising=False)
    default = folder()
    assert "edgespec" in default.parts
    assert default.is_absolute()
    monkeypatch.setenv(variable, str(tmp_path / kind))
    assert folder() == tmp_path / kind
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here")
    assert folder() == tmp_path / "here"
    monkeypatch.setenv(variable, "")
    assert folder() == default

"""What a user may ask for."""

from __future__ import annotations

import pytest

from edgespec import settings
from edgespec.errors import BadSetting
from edgespec.settings import Settings


def test_a_rule_that_is_unknown_is_refused() -> None:
    """Fails when a misspelt rule verifies by the default one."""
    with pytest.raises(BadSetting, match="--verify reject is unknown; use one of match, rejection"):
        Settings(verify="reject")


def test_rejection_refuses_a_method_whose_drafts_are_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when it is found out in the middle of an answer."""
    monkeypatch.setattr(settings, "METHODS", (*settings.METHODS, "copying"))
    assert Settings(method="copying").verify == "match"
    with pytest.raises(BadSetting, match="--method copying has none; use --method model, or --verify match"):
        Settings(method="copying", verify="rejection")
    assert {Settings(method=m, verify="rejection").method for m in settings.WITH_PROBABILITIES} <= {*settings.METHODS}

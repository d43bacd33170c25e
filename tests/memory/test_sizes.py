"""Sizes as people write them."""

from __future__ import annotations

import pytest

from edgespec.errors import BadSetting
from edgespec.memory.sizes import parse, shown


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("6GiB", 6 * 2**30),
        ("6GB", 6 * 10**9),
        ("6g", 6 * 2**30),
        ("6 gib", 6 * 2**30),
        ("512MiB", 2**29),
        ("512m", 2**29),
        ("1.5GiB", 3 * 2**29),
        ("0.5k", 512),
        ("1000", 1000),
        ("17B", 17),
        (" 2T ", 2**41),
    ],
)
def test_a_size_means_what_its_unit_says(text: str, n_bytes: int) -> None:
    """GB and GiB are 7 % apart: mixing them up is a plan that does not fit."""
    assert parse(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["6GB5", "-3GiB", "0", "", " ", "nan", "inf", "1e9", "6 Gi B", "GiB", "1,5GiB", "0.1", "9" * 19, "9" * 400, "٣GiB"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    """Fails when a slip of the finger becomes a budget of 0 or of everything."""
    with pytest.raises(BadSetting, match=r"--budget .* 6GiB"):
        parse(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1023, "1023 bytes"),
        (3500, "3.42 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (412 * 2**20, "412 MiB"),
        (1299227607, "1.21 GiB"),
        (16 * 2**30, "16.0 GiB"),
        (1023 * 2**20, "1023 MiB"),
    ],
)
def test_a_size_is_told_in_three_figures(n_bytes: int, text: str) -> None:
    """Fails when two sizes that decide something look alike, or 1024 MiB is told for 1 GiB."""
    assert shown(n_bytes) == text

"""Command preset refuses names that are no preset, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refusals import Facts, Spoil, nothing, put

REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    "preset unknown": ("preset tutrial", nothing, ["'tutrial'", "does not exist", "'tutorial'"]),
    "preset quite unknown": (
        "preset qqq",
        nothing,
        ["'qqq'", "does not exist", "digits, horse2zebra, quickstart, tutorial"],
    ),
    "preset outside its folder": (
        "preset ../params",
        nothing,
        ["'../params'", "does not exist", "digits, horse2zebra, quickstart, tutorial"],
    ),
    "preset of nothing": ("preset ", nothing, ["''", "does not exist", "digits, horse2zebra, quickstart, tutorial"]),
    "preset broken": (
        "preset mine",
        put("presets/mine.yaml", "train: ["),
        ["mine.yaml", "not valid YAML", "line 1, column 9"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_preset_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])

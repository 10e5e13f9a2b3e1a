"""Commands translate and serve refuse a model that they cannot load, and change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refusals import Facts, Spoil, nothing, put

REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    "translate without a model": (
        "translate none.keras a/0.png -o out",
        nothing,
        ["none.keras", "does not exist", "dvc repro", ".keras file"],
    ),
    "translate with no model file": ("translate a/0.png a/0.png -o out", nothing, ["a/0.png", "not a .keras file"]),
    "translate with a folder as model": ("translate a a/0.png -o out", nothing, ["a: is not a file", ".keras file"]),
    "translate with a broken model": (
        "translate x.keras a/0.png -o out",
        put("x.keras", "no model"),
        ["x.keras", "cut short"],
    ),
    "translate with an h5 file": (
        "translate x.h5 a/0.png -o out",
        put("x.h5", "no model"),
        ["x.h5", "not a .keras file"],
    ),
    "translate with an alias that does not exist": (
        "translate models:/a2b-AtoB@champion a/0.png -o out",
        nothing,
        ["models:/a2b-AtoB@champion", "a2b-AtoB not found"],
    ),
    "translate with a version that does not exist": (
        "translate models:/a2b-AtoB/7 a/0.png -o out",
        nothing,
        ["models:/a2b-AtoB/7", "a2b-AtoB not found"],
    ),
    "translate with a malformed address": (
        "translate models:/ a/0.png -o out",
        nothing,
        ["models:/", "models:/name/suffix", "models:/name@alias"],
    ),
    "translate with a bit depth for a registered model": (
        "translate models:/a2b-AtoB@champion a/0.png -o out --bit-depth 16",
        nothing,
        ["--bit-depth", 16, "models:/a2b-AtoB@champion"],
    ),
    "serve with a bit depth for a registered model": (
        "serve models:/a2b-AtoB@champion --bit-depth 8",
        nothing,
        ["--bit-depth", 8, "models:/a2b-AtoB@champion"],
    ),
    "translate with an address of another kind": (
        "translate runs:/0123/model a/0.png -o out",
        nothing,
        ["runs:/0123/model", "does not exist", "dvc repro", ".keras file"],
    ),
}


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])

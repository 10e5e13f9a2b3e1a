"""Command import-legacy refuses files that it cannot convert, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refusals import Facts, Spoil, nothing, put

REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    "import of nothing": ("import-legacy none.h5 -o x.keras", nothing, ["none.h5", "Keras 2"]),
    "import of text": ("import-legacy x.h5 -o x.keras", put("x.h5", "text"), ["x.h5", "not an HDF5 file", "Keras 2"]),
    "import of an image": ("import-legacy a/0.png -o x.keras", nothing, ["a/0.png", "not an HDF5 file", "Keras 2"]),
    "import to another kind": ("import-legacy x.h5 -o x.h5", nothing, ["--output", "x.h5", "must end in .keras"]),
    "import over a file": ("import-legacy x.h5 -o x.keras", put("x.keras", "mine"), ["--output", "x.keras", "exists"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_import_legacy_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])

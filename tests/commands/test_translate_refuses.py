"""Command translate refuses images and outputs that it cannot use, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import pytest

from refusals import ENDINGS, FIVE_CHANNELS, Facts, Spoil, all_of, make_folder, put, trained


def greedy_generator(root: Path) -> None:
    """A generator whose images need petabytes, which no machine has."""
    image = keras.Input((None, None, 3))
    greedy = keras.Model(image, keras.layers.ZeroPadding2D(2**24)(image))
    greedy.save(root / "models/generator_AtoB.keras")


REFUSED: dict[str, tuple[str, Spoil, Facts]] = {
    "translate without an image": (
        "translate models/generator_AtoB.keras none.png -o out",
        trained,
        ["none.png", "does not exist"],
    ),
    "translate a folder without images": (
        "translate models/generator_AtoB.keras presets -o out",
        trained,
        ["presets", ENDINGS, 4, ".yaml"],
    ),
    "translate an empty image": (
        "translate models/generator_AtoB.keras x.png -o out",
        all_of(trained, put("x.png", "")),
        ["x.png", "empty"],
    ),
    "translate five channels": (
        "translate models/generator_AtoB.keras x.tif -o out",
        all_of(trained, put("x.tif", FIVE_CHANNELS)),
        ["x.tif", "5 channels", 3, "data.channels_A", "data.channels_B"],
    ),
    "translate two images of one name": (
        "translate models/generator_AtoB.keras a b -o out",
        trained,
        ["a/0.png", "b/0.png", "out/0.png"],
    ),
    "translate over a file": (
        "translate models/generator_AtoB.keras a/0.png -o out",
        all_of(trained, put("out/0.png", "mine")),
        ["out/0.png", "exists", "--overwrite"],
    ),
    "translate with too little memory": (
        "translate models/generator_AtoB.keras a/0.png -o out",
        all_of(trained, greedy_generator),
        ["memory", "a/0.png", "20×16"],
    ),
    "translate over its input": (
        "translate models/generator_AtoB.keras a/0.png -o a --overwrite",
        trained,
        ["a/0.png", "another output folder"],
    ),
    "translate into a file": (
        "translate models/generator_AtoB.keras a/0.png -o out",
        all_of(trained, put("out", "mine")),
        ["out", "not a folder", "another output folder"],
    ),
    "translate into a folder's place": (
        "translate models/generator_AtoB.keras a/0.png -o out --overwrite",
        all_of(trained, make_folder("out/0.png")),
        ["out/0.png", "is a folder", "another output folder"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_translate_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses(*REFUSED[name])

"""Stage evaluate refuses what a training did not leave complete, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan import build_generator
from refusals import Facts, Spoil, all_of, cut, image, put, remove, set_params, split_done, trained


def gray_generator(root: Path) -> None:
    build_generator(1, base_filters=4, blocks=1).save(root / "models/generator_AtoB.keras")


REFUSED: dict[str, tuple[Spoil, Facts]] = {
    "evaluate with a feature network that is none": (
        all_of(split_done, trained, put("own.keras", "text"), set_params(evaluate={"features": "own.keras"})),
        ["evaluate.features", "{root}/own.keras", "evaluate.features_size", 128],
    ),
    "evaluate without training": (split_done, ["{root}/reports/train/run.json", "does not exist", "dvc repro train"]),
    "evaluate a broken run.json": (
        all_of(split_done, put("reports/train/run.json", "{")),
        ["{root}/reports/train/run.json", "not JSON", "line 1 column 2", "dvc repro --force train"],
    ),
    "evaluate an empty run.json": (
        all_of(split_done, put("reports/train/run.json", "{}")),
        [
            "{root}/reports/train/run.json",
            "adversarial_loss, data_md5, dataset, device, epochs, experiment, kept, run_id, run_key, seconds, steps",
            "dvc repro --force train",
        ],
    ),
    "evaluate without generators": (
        all_of(split_done, trained, remove("models/generator_AtoB.keras")),
        ["{root}/models/generator_AtoB.keras", "does not exist", "dvc repro", ".keras"],
    ),
    "evaluate a generator cut short": (
        all_of(split_done, trained, cut("models/generator_BtoA.keras")),
        ["{root}/models/generator_BtoA.keras", "cut short"],
    ),
    "evaluate a generator of other channels": (
        all_of(split_done, trained, gray_generator),
        ["{root}/models/generator_AtoB.keras", 1, 3, "{root}/data/split", "dvc repro train"],
    ),
    "evaluate without curves": (
        all_of(split_done, trained, remove("reports/train/losses.csv")),
        ["{root}/reports/train/losses.csv", "does not exist", "dvc repro train"],
    ),
    "evaluate empty curves": (
        all_of(split_done, trained, put("reports/train/losses.csv", "")),
        ["{root}/reports/train/losses.csv", "No columns to parse from file", "dvc repro --force train"],
    ),
    "evaluate samples cut short": (
        all_of(
            split_done,
            trained,
            put("reports/train/over_time.png", image(1)),
            cut("reports/train/over_time.png"),
        ),
        ["{root}/reports/train/over_time.png", "image file is truncated", "dvc repro --force train"],
    ),
}


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("name", REFUSED)
def test_evaluate_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses("evaluate", *REFUSED[name])

"""Stage register refuses what earlier stages did not leave complete, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from refusals import Facts, Spoil, all_of, nothing, put, remove, trained

METRICS = json.dumps({"protocol": {}} | {d: {"cycle_l1": 0.5, "identity": {}} for d in ("AtoB", "BtoA")})


REFUSED: dict[str, tuple[Spoil, Facts]] = {
    "register without training": (nothing, ["{root}/reports/train/run.json", "does not exist", "dvc repro train"]),
    "register without metrics": (
        trained,
        ["{root}/reports/evaluate/details.json", "does not exist", "dvc repro evaluate"],
    ),
    "register broken metrics": (
        all_of(trained, put("reports/evaluate/details.json", "{")),
        ["{root}/reports/evaluate/details.json", "not JSON", "line 1 column 2", "dvc repro --force evaluate"],
    ),
    "register empty metrics": (
        all_of(trained, put("reports/evaluate/details.json", "{}")),
        ["{root}/reports/evaluate/details.json", "AtoB, BtoA, protocol", "dvc repro --force evaluate"],
    ),
    "register without generators": (
        all_of(trained, put("reports/evaluate/details.json", METRICS), remove("models/generator_AtoB.keras")),
        ["{root}/models/generator_AtoB.keras", "does not exist", "dvc repro train"],
    ),
    "register without the table of images": (
        all_of(trained, put("reports/evaluate/details.json", METRICS)),
        ["{root}/reports/evaluate/per_image.csv", "does not exist", "dvc repro evaluate"],
    ),
    "register an empty table of images": (
        all_of(trained, put("reports/evaluate/details.json", METRICS), put("reports/evaluate/per_image.csv", "")),
        ["{root}/reports/evaluate/per_image.csv", "No columns to parse from file", "dvc repro --force evaluate"],
    ),
    "register another table of images": (
        all_of(trained, put("reports/evaluate/details.json", METRICS), put("reports/evaluate/per_image.csv", "a,b\n")),
        ["{root}/reports/evaluate/per_image.csv", "direction, domain, id", "dvc repro --force evaluate"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_register_refuses(refuses: Callable[..., None], name: str) -> None:
    refuses("register", *REFUSED[name])

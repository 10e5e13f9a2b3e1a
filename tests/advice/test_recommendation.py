"""The rules of `cyclegan init`, as a table: what the images are, and what is chosen for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cyclegan.advice.findings import DomainFindings, Findings
from cyclegan.advice.recommendation import image_choices, network_choices, overrides, training_choices
from cyclegan.advice.schedule import (
    Budget,
    Candidate,
    candidates,
    choose_network,
    largest_size,
    make_schedule,
)
from cyclegan.advice.timing import StepCost
from cyclegan.params import validate
from cyclegan.params.overrides import nested
from cyclegan.system.errors import UserError

PHOTOS: dict[str, Any] = {"counts": {"train": 1000}, "side": 300, "channels": {3: 1000}}
COST = StepCost(seconds=0.1, build_seconds=10, translate_seconds=0.01, memory_bytes=2**30)


def domain(**changes: Any) -> DomainFindings:
    values = PHOTOS | changes
    return DomainFindings(**{"smallest": (values["side"],) * 2, "largest": (values["side"],) * 2} | values)


def found(distance: float = 2.0, on_gpu: bool = False, has_pairs: bool = False, **changes: Any) -> Findings:
    return Findings({"A": domain(**changes), "B": domain(**changes)}, distance, on_gpu=on_gpu, has_pairs=has_pairs)


def chosen(findings: Findings, size: int = 64, filters: int = 32, minutes: float = 20) -> dict[str, Any]:
    """All parameters, which `params.yaml` must take."""
    choices = [
        *image_choices(findings, size),
        *network_choices(findings, Candidate(size, filters)),
        *training_choices(findings, make_schedule(findings, Budget(minutes), COST)),
    ]
    keys = [choice.key for choice in choices]
    assert len(keys) == len(set(keys))
    assert all(choice.reason and "\n" not in choice.reason for choice in choices)
    values = overrides(choices)
    params = validate(nested({"data.source": "horse2zebra", **values}))
    assert params.without_effect == []
    return values


FEW = {"counts": {"train": 60}, "channels": {3: 60}}
TABLE: dict[str, tuple[Findings, int, Mapping[str, Any]]] = {
    "photographs at 64 pixels": (
        found(),
        64,
        {
            **{"data.load_size": 72, "train.crop_size": 64, "train.flip": True, "model.generator": "unet_full"},
            **{"model.patch_layers": 2, "model.residual_output": False, "train.discriminator_batch": 8},
            **{"train.loss_weights.identity": 5.0, "train.loss_weights.forward_cycle": 10.0, "train.diff_augment": []},
            **{"train.learning_rate": 0.0004, "train.select": "auto", "train.deterministic": True},
        },
    ),
    "photographs at 128 pixels": (
        found(),
        128,
        {
            **{"data.load_size": 143, "model.generator": "resnet", "model.patch_layers": 3},
            "train.discriminator_batch": 4,
        },
    ),
    "photographs at 256 pixels": (
        found(on_gpu=True),
        256,
        {"data.load_size": 286, "model.patch_layers": 3, "train.discriminator_batch": None}
        | {"train.deterministic": False},
    ),
    "no pixels left to crop": (found(side=64), 64, {"data.load_size": 64, "train.crop_size": 64}),
    "28 pixels": (
        found(side=28, channels={1: 1000}),
        28,
        {"model.generator": "resnet", "model.patch_layers": 1, "data.channels_A": 1, "data.channels_B": 1},
    ),
    "close domains": (
        found(distance=0.14),
        64,
        {"model.residual_output": True, "train.loss_weights.identity": 2.0, "train.loss_weights.backward_cycle": 4.0},
    ),
    "few images": (
        found(**FEW),
        64,
        {
            **{"train.diff_augment": ["color", "translation", "cutout"], "train.discriminator_batch": None},
            **{"data.val_fraction": 0.1, "data.test_fraction": 0.1, "train.select": "auto"},
        },
    ),
    "too few for the gate": (
        found(counts={"train": 20}, channels={3: 20}),
        64,
        {"data.val_fraction": 0.2, "data.test_fraction": 0.2, "train.select": "auto"},
    ),
    "too few to select": (found(counts={"train": 8}, channels={3: 8}), 64, {"train.select": "last"}),
    "pairs select": (found(counts={"train": 8}, channels={3: 8}, has_pairs=True), 64, {"train.select": "auto"}),
    "many images": (
        found(counts={"train": 10_000}, channels={3: 10_000}),
        64,
        {"data.val_fraction": 0.01, "data.test_fraction": 0.025},
    ),
    "one gray domain": (
        Findings({"A": domain(channels={1: 9}), "B": domain(channels={3: 5, 4: 4})}, 2.0),
        64,
        {"data.channels_A": 3, "data.channels_B": 3, "train.loss_weights.identity": 5.0},
    ),
    "satellite images": (
        Findings({"A": domain(channels={5: 9}, deep=900), "B": domain(deep=900)}, 0.1),
        64,
        {
            **{"data.channels_A": 5, "data.channels_B": 3, "data.bit_depth": 16},
            **{"train.loss_weights.identity": 0.0, "model.residual_output": False},
        },
    ),
    "one deep domain": (Findings({"A": domain(deep=900), "B": domain()}, 2.0), 64, {"data.bit_depth": 8}),
    "unreadable images": (found(unreadable={"a.png": "is empty"}), 64, {"data.on_bad_image": "skip"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_choices(name: str) -> None:
    findings, size, expected = TABLE[name]
    values = chosen(findings, size)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("side", "largest"), [(28, 28), (30, 28), (4, 8), (33, 32), (64, 64), (300, 288)], ids=lambda value: str(value)
)
def test_most_images_are_not_enlarged(side: int, largest: int) -> None:
    assert largest_size(found(side=side)) == largest


def test_what_is_timed() -> None:
    sizes = [(c.size, c.filters) for c in candidates(found(), None)]
    assert sizes == [(64, 16), (64, 32), (128, 32), (128, 64), (256, 64)]
    assert candidates(found(side=100), None)[-1] == Candidate(96, 64)
    assert candidates(found(), 64)[-1] == Candidate(64, 64)
    assert {c.filters for c in candidates(found(**FEW), None)} == {16, 32}
    assert candidates(found(on_gpu=True), None) == [Candidate(128, 64), Candidate(256, 64)]


@pytest.mark.parametrize(
    ("minutes", "expected", "timed"),
    [
        # Each 64-pixel step takes filters / 320 s, four times as long for each doubling of the size.
        (3, Candidate(64, 16), 1),
        (7, Candidate(64, 32), 3),
        (30, Candidate(128, 32), 4),
        (60, Candidate(128, 64), 5),
        (600, Candidate(256, 64), 5),
    ],
)
def test_the_dearest_network_whose_steps_are_worthwhile(minutes: float, expected: Candidate, timed: int) -> None:
    measured = []

    def cost_of(candidate: Candidate) -> StepCost:
        measured.append(candidate)
        return StepCost(candidate.filters / 320 * (candidate.size / 64) ** 2, 10, 0.01, 2**30)

    network, _ = choose_network(candidates(found(), None), found(), Budget(minutes), cost_of)
    assert (network, len(measured)) == (expected, timed)


@pytest.mark.parametrize(("on_gpu", "expected"), [(False, Candidate(64, 32)), (True, Candidate(256, 64))])
def test_with_epochs_one_network_is_timed(on_gpu: bool, expected: Candidate) -> None:
    findings = found(on_gpu=on_gpu)
    measured: list[Candidate] = []
    cost = lambda candidate: measured.append(candidate) or COST  # noqa: E731
    assert choose_network(candidates(findings, None), findings, Budget(epochs=3), cost) == (expected, COST)
    assert measured == [expected]


@pytest.mark.parametrize("minutes", [4, 10, 60, 600])
def test_the_schedule_keeps_to_the_time(minutes: float) -> None:
    schedule = make_schedule(found(), Budget(minutes), COST)
    assert 0.85 * 60 * minutes < schedule.total_seconds <= 60 * minutes
    assert schedule.evaluations <= 10
    per_epoch = 800 if schedule.steps_per_epoch == "auto" else schedule.steps_per_epoch
    assert schedule.steps == schedule.epochs * per_epoch


def test_the_schedule_of_given_epochs() -> None:
    schedule = make_schedule(found(), Budget(epochs=25), COST)
    assert (schedule.epochs, schedule.steps_per_epoch, schedule.steps) == (25, "auto", 25 * 800)
    assert (schedule.evaluate_every, schedule.evaluations) == (3, 9)
    assert schedule.train_seconds == pytest.approx(10 + 2000 + 9 * 200 * 4 * 0.01)


def test_a_network_that_does_not_fit_into_the_memory_ends_the_ladder() -> None:
    def cost_of(candidate: Candidate) -> StepCost:
        if candidate.filters > 16:
            raise UserError("out of memory")
        return COST

    assert choose_network(candidates(found(), None), found(), Budget(60), cost_of)[0] == Candidate(64, 16)


def test_too_little_time_names_the_least() -> None:
    with pytest.raises(UserError, match=r"--minutes 1: too few for 100 training steps; use at least 3"):
        make_schedule(found(), Budget(1), COST)
    assert make_schedule(found(), Budget(3), COST).steps >= 100

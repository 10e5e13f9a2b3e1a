"""From `search.space` to hyperparameters and back to parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from cyclegan.params import Params, flatten, read, validate
from cyclegan.params.overrides import nested, overlaid
from cyclegan.search.space import current_values, dimensions, paper_values, to_overrides, variant
from cyclegan.system.errors import UserError
from refusals import Facts, holds

GOOD = read(Path(__file__).parents[2] / "params.yaml")
NOTHING = dict.fromkeys(GOOD["search"]["space"]) | {"per_direction": False}
LOG = {"low": 0.5, "high": 20.0, "scale": "log"}
RESNET = {"model__generator": "resnet", "model__blocks": 4, "model__upsample": "resize"}


def params(space: dict[str, Any], **changes: Any) -> Params:
    tree = overlaid(GOOD, nested({key.replace("__", "."): value for key, value in changes.items()}))
    tree["search"] = {**tree["search"], "space": {**NOTHING, **space}}
    return validate(tree)


def of_resnet(space: dict[str, Any], **changes: Any) -> Params:
    return params(space, **{**RESNET, **changes})


def named(objective: str) -> dict[str, Any]:
    return {"search__objectives": [{"name": objective, "direction": "maximize", "terms": {"val_AtoB/kid": 1.0}}]}


def problem(chosen: Params) -> str:
    with pytest.raises(UserError) as caught:
        dimensions(chosen)
    return str(caught.value)


def test_one_cycle_weight_sets_all_four() -> None:
    chosen = params({"cycle": LOG})
    (cycle,) = dimensions(chosen)
    assert cycle.distribution == FloatDistribution(0.5, 20.0, log=True)
    made = variant(chosen, to_overrides([cycle], {"cycle": 5.0}), seed=7, cheap=False)
    weights = made.train.loss_weights.model_dump()
    assert weights["forward_cycle"] == weights["backward_cycle"] == {"AtoB": 5.0, "BtoA": 5.0}
    assert made.train.seed == 7
    rest = dict(flatten(made.model_dump()))
    before = dict(flatten(chosen.model_dump()))
    assert {key for key in rest if rest[key] != before[key]} == {*cycle.keys, "train.seed"}


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_per_direction_ties_the_weights_that_one_cycle_shares(order: str) -> None:
    space = {"cycle": LOG, "identity": {"low": 0.0, "high": 5.0, "scale": "linear"}, "per_direction": True}
    chosen = params(space, train__update_order=order)
    found = dimensions(chosen)
    assert [dimension.name for dimension in found] == ["cycle_A", "cycle_B", "identity_AtoB", "identity_BtoA"]
    hyperparameters = {"cycle_A": 1.0, "cycle_B": 2.0, "identity_AtoB": 3.0, "identity_BtoA": 4.0}
    weights = variant(chosen, to_overrides(found, hyperparameters), seed=0, cheap=False).train.loss_weights
    assert (weights.forward_cycle.AtoB, weights.backward_cycle.BtoA) == (1.0, 1.0)
    assert (weights.forward_cycle.BtoA, weights.backward_cycle.AtoB) == (2.0, 2.0)
    assert (weights.identity.AtoB, weights.identity.BtoA) == (3.0, 4.0)


def test_every_key_of_the_space_reaches_its_parameter() -> None:
    space = {
        "adversarial": LOG,
        "blocks": {"low": 2, "high": 6},
        "learning_rate": {"low": 1e-4, "high": 1e-3, "scale": "log"},
        "base_filters": [16, 32],
        "norm": ["instance", "batch"],
        "upsample": ["resize", "antialias"],
        "adversarial_loss": ["least_squares", "hinge"],
    }
    chosen = of_resnet(space)
    found = dimensions(chosen)
    assert {dimension.kind for dimension in found} == set(space)
    hyperparameters = {"adversarial": 2.0, "blocks": 5, "learning_rate": 3e-4, "base_filters": 16, "norm": "batch"}
    hyperparameters |= {"upsample": "antialias", "adversarial_loss": "hinge"}
    made = variant(chosen, to_overrides(found, hyperparameters), seed=0, cheap=False)
    assert current_values(made, found) == hyperparameters
    assert made.model.blocks == 5
    assert made.train.adversarial_loss == "hinge"


def test_values_of_trial_0_and_of_the_paper() -> None:
    chosen = of_resnet({"cycle": LOG, "blocks": {"low": 2, "high": 9}}, model__blocks="auto")
    found = dimensions(chosen)
    assert current_values(chosen, found) == {"cycle": 4.0, "blocks": 6}
    assert paper_values(chosen, found) == {"cycle": 10.0, "blocks": 6}
    narrow = params({"cycle": {**LOG, "high": 5.0}})
    assert paper_values(narrow, dimensions(narrow)) == "the paper's cycle = 10.0 lies outside search.space.cycle"


def test_fidelity_replaces_keys_of_cheap_trials_only() -> None:
    chosen = params({"cycle": LOG}, search__fidelity__epochs=1, search__fidelity__base_filters=8)
    cheap, full = (variant(chosen, {}, seed=0, cheap=cheap) for cheap in (True, False))
    assert (cheap.train.epochs, cheap.model.base_filters) == (1, 8)
    assert (full.train.epochs, full.model.base_filters) == (chosen.train.epochs, chosen.model.base_filters)


@pytest.mark.parametrize(
    ("space", "changes", "facts"),
    [
        ({}, {}, ["search.space", "null"]),
        ({"learning_rate": LOG, "per_direction": True}, {}, ["search.space.per_direction", "no effect"]),
        ({"blocks": {"low": 2, "high": 6}}, {}, ["search.space.blocks", "model.generator", "resnet", "unet"]),
        ({"cycle": {**LOG, "low": 6.0}}, {}, ["search.space.cycle", "value", "4.0"]),
        ({"norm": ["batch", "none"]}, {}, ["search.space.norm", "value", "model.norm = instance"]),
        ({"upsample": ["resize", "antialias"]}, {}, ["search.space", "upsample = antialias"]),
        (
            {"adversarial_loss": ["least_squares", "wasserstein"]},
            {},
            ["search.space", "adversarial_loss = wasserstein", "train.gradient_penalty", 0],
        ),
        (
            {"identity": {"low": 0.0, "high": 5.0, "scale": "linear"}},
            {"train__loss_weights__identity": {"AtoB": 1.0, "BtoA": 2.0}},
            [
                "search.space.identity",
                "train.loss_weights.identity.AtoB = 1.0",
                "train.loss_weights.identity.BtoA = 2.0",
                "search.space.per_direction: true",
            ],
        ),
        (
            {"cycle": LOG},
            named("cycle"),
            ["search.objectives", "'cycle'", "taken"],
        ),
        ({"cycle": LOG, "per_direction": True}, named("cycle_B"), ["search.objectives", "'cycle_B'", "taken"]),
        ({"cycle": LOG}, named("state"), ["search.objectives", "'state'", "taken"]),
        (
            {"cycle": LOG},
            {"search__fidelity__crop_size": 8},
            ["search.space", "search.fidelity", "cycle = 0.5", "train.crop_size", "[8, 8]"],
        ),
    ],
)
def test_impossible_spaces_are_refused(space: dict[str, Any], changes: dict[str, Any], facts: Facts) -> None:
    message = problem(params(space, **changes))
    assert [fact for fact in facts if not holds(message, fact)] == [], message

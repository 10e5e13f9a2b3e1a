"""The search space: from `search.space` to Optuna distributions, and from a trial's values to parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from cyclegan.params import Params, Range, flatten, validate
from cyclegan.params.derived import residual_blocks
from cyclegan.params.overrides import nested, overlaid
from cyclegan.params.train import LossWeights
from cyclegan.search.no_search import COLUMNS
from cyclegan.system.errors import UserError

# A value for each dimension: `{"cycle": 3.2, "identity": 0.7}`.
Hyperparameters = dict[str, Any]

# Zhu et al. 2017, with the identity weight of the reference implementation. The number of blocks depends on the size.
PAPER = {
    "adversarial": 1.0,
    "identity": 5.0,
    "cycle": 10.0,
    "learning_rate": 0.0002,
    "base_filters": 64,
    "norm": "instance",
    "upsample": "transpose",
    "adversarial_loss": "least_squares",
}


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search space.

    Attributes:
        name: its name in Optuna, the reports and MLflow.
        kind: its key in `search.space`.
        keys: the keys of params.yaml that get its value.
        distribution: its possible values.
    """

    name: str
    kind: str
    keys: tuple[str, ...]
    distribution: BaseDistribution

    def suggest(self, trial: Trial) -> Any:
        """Let Optuna choose the trial's value."""
        bounds = self.distribution
        if isinstance(bounds, CategoricalDistribution):
            return trial.suggest_categorical(self.name, bounds.choices)
        if isinstance(bounds, IntDistribution):
            return trial.suggest_int(self.name, bounds.low, bounds.high)
        assert isinstance(bounds, FloatDistribution)
        return trial.suggest_float(self.name, bounds.low, bounds.high, log=bounds.log)


def dimensions(params: Params) -> list[Dimension]:
    """The dimensions of `search.space`.

    Raises:
        UserError: the space is empty, has a key without effect, allows an impossible combination, or excludes the
            values of params.yaml; or an objective has the name of another column of the report.
    """
    space = params.search.space
    result: list[Dimension] = []

    def add(kind: str, distribution: BaseDistribution, names: Mapping[str, tuple[str, ...]]) -> None:
        result.extend(Dimension(name, kind, keys, distribution) for name, keys in names.items())

    if space.cycle is not None:
        add("cycle", _range(space.cycle), _cycles(space.per_direction))
    for term in ("identity", "adversarial"):
        bounds: Range | None = getattr(space, term)
        if bounds is not None:
            add(term, _range(bounds), _weights(term, space.per_direction))
    if space.blocks is not None:
        if params.model.generator != "resnet":
            raise UserError(
                f"search.space.blocks: needs model.generator: resnet, not {params.model.generator}; set it to null"
            )
        bounds_of_blocks = IntDistribution(space.blocks.low, space.blocks.high)
        add("blocks", bounds_of_blocks, {"blocks": ("model.blocks",)})
    if space.learning_rate is not None:
        add("learning_rate", _range(space.learning_rate), {"learning_rate": ("train.learning_rate",)})
    for section, key in (
        ("model", "base_filters"),
        ("model", "norm"),
        ("model", "upsample"),
        ("train", "adversarial_loss"),
    ):
        values = getattr(space, key)
        if values is not None:
            add(key, CategoricalDistribution(values), {key: (f"{section}.{key}",)})
    if not result:
        raise UserError("search.space: every key is null, so there is nothing to search; give one key a range")
    if space.per_direction and not any(dimension.kind in ("cycle", *LossWeights.model_fields) for dimension in result):
        raise UserError(
            "search.space.per_direction: true has no effect without cycle, identity or adversarial; set it to false"
        )
    _refuse_taken_names(params, result)
    _refuse_impossible(params, result)
    current_values(params, result)
    return result


def current_values(params: Params, space: list[Dimension]) -> Hyperparameters:
    """The values of params.yaml: those of trial 0, which every other trial has to beat.

    Raises:
        UserError: a value lies outside the space.
    """
    flat = _flat(params)
    hyperparameters: Hyperparameters = {}
    for dimension in space:
        values = [flat[key] for key in dimension.keys]
        if dimension.kind == "blocks":
            values = [_blocks(params)]
        if len(set(values)) > 1:
            remedy = "make them equal"
            if not params.search.space.per_direction:
                remedy += " or set search.space.per_direction: true"
            different = ", ".join(f"{key} = {flat[key]}" for key in dimension.keys)
            raise UserError(f"search.space.{dimension.kind}: one range for different values, {different}; {remedy}")
        if not _contains(dimension, values[0]):
            raise UserError(
                f"search.space.{dimension.kind}: excludes the current value {dimension.keys[0]} = {values[0]}; "
                "widen it, because trial 0 has this value"
            )
        hyperparameters[dimension.name] = values[0]
    return hyperparameters


def paper_values(params: Params, space: list[Dimension]) -> Hyperparameters | str:
    """The paper's values, or the reason why the space does not contain them."""
    hyperparameters: Hyperparameters = {}
    for dimension in space:
        value = {**PAPER, "blocks": _paper_blocks(params)}[dimension.kind]
        if not _contains(dimension, value):
            return f"the paper's {dimension.name} = {value} lies outside search.space.{dimension.kind}"
        hyperparameters[dimension.name] = value
    return hyperparameters


def to_overrides(space: list[Dimension], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a value for each dimension to the part of params.yaml that it overrides."""
    return nested({key: hyperparameters[dimension.name] for dimension in space for key in dimension.keys})


def variant(params: Params, values: Mapping[str, Any], *, seed: int, cheap: bool) -> Params:
    """The parameters of a trial.

    Args:
        values: the result of `to_overrides`.
        seed: overrides `train.seed`.
        cheap: apply `search.fidelity` too.

    Raises:
        UserError: the combination is impossible.
    """
    # A trial may have another batch size and fewer GPUs than stage `train`.
    tree = overlaid(params.model_dump(), nested({"train.seed": seed, "train.devices": "auto"}))
    if cheap:
        tree = overlaid(tree, nested(cheaper(params)))
    return validate(overlaid(tree, values), "a trial's parameters")


def cheaper(params: Params) -> dict[str, Any]:
    """`search.fidelity` as keys of params.yaml."""
    sections = {"base_filters": "model", "discriminator_filters": "model"}
    chosen = params.search.fidelity.model_dump(exclude_none=True)
    return {f"{sections.get(key, 'train')}.{key}": value for key, value in chosen.items()}


def _refuse_taken_names(params: Params, space: list[Dimension]) -> None:
    """Check that each objective has a column of `trials.csv` of its own."""
    if params.search.objectives == "auto":
        return
    taken = {*COLUMNS, *(dimension.name for dimension in space)}
    for objective in params.search.objectives:
        if objective.name in taken:
            raise UserError(
                f"search.objectives: the name {objective.name!r} is taken by another column of trials.csv "
                f"({', '.join(sorted(taken))}); give the objective another name"
            )


def _refuse_impossible(params: Params, space: list[Dimension]) -> None:
    """Check all combinations of choices with both ends of the ranges, at both fidelities."""
    choices = {
        dimension.name: dimension.distribution.choices
        for dimension in space
        if isinstance(dimension.distribution, CategoricalDistribution)
    }
    ranges = [dimension for dimension in space if dimension.name not in choices]
    ends: list[Callable[[Any], Any]] = [lambda bounds: bounds.low, lambda bounds: bounds.high]
    for cheap in (True, False):
        for choice in itertools.product(*choices.values()):
            chosen = dict(zip(choices, choice, strict=True))
            for end in ends:
                hyperparameters = chosen | {dimension.name: end(dimension.distribution) for dimension in ranges}
                try:
                    variant(params, to_overrides(space, hyperparameters), seed=0, cheap=cheap)
                except UserError as error:
                    reason = str(error).splitlines()[0].removeprefix("a trial's parameters: ")
                    values = ", ".join(f"{name} = {value}" for name, value in hyperparameters.items())
                    where = "search.space with search.fidelity" if cheap and cheaper(params) else "search.space"
                    raise UserError(f"{where}: allows {values}, which is impossible: {reason}") from None


def _cycles(per_direction: bool) -> dict[str, tuple[str, ...]]:
    """The keys of one weight per cycle: A → B → A is the forward cycle of G_AtoB and the backward cycle of G_BtoA.

    `update_order: joint` counts each cycle once, so it needs weights that are tied this way.
    """
    weights = "train.loss_weights"
    around_A = (f"{weights}.forward_cycle.AtoB", f"{weights}.backward_cycle.BtoA")
    around_B = (f"{weights}.forward_cycle.BtoA", f"{weights}.backward_cycle.AtoB")
    return {"cycle_A": around_A, "cycle_B": around_B} if per_direction else {"cycle": (*around_A, *around_B)}


def _weights(term: str, per_direction: bool) -> dict[str, tuple[str, ...]]:
    keys = {direction: f"train.loss_weights.{term}.{direction}" for direction in ("AtoB", "BtoA")}
    return {f"{term}_{way}": (key,) for way, key in keys.items()} if per_direction else {term: tuple(keys.values())}


def _range(bounds: Range) -> FloatDistribution:
    return FloatDistribution(bounds.low, bounds.high, log=bounds.scale == "log")


def _contains(dimension: Dimension, value: Any) -> bool:
    distribution = dimension.distribution
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low <= value <= distribution.high


def _flat(params: Params) -> dict[str, Any]:
    return dict(flatten(params.model_dump()))


def _blocks(params: Params) -> int:
    size = params.training_size
    if params.model.blocks == "auto" and size is None:
        raise UserError(
            "search.space.blocks: model.blocks: auto depends on the size of the images; set model.blocks to a number"
        )
    return residual_blocks(params.model.blocks, size or (0, 0))


def _paper_blocks(params: Params) -> int:
    size = params.training_size
    return 9 if size is not None and min(size) >= 256 else 6

"""Section `search`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from cyclegan.domains import DIRECTIONS
from cyclegan.params.section import (
    AdversarialLoss,
    Count,
    Norm,
    NotNegative,
    Positive,
    Section,
    Size,
    Upsample,
    impossible,
    parse_size,
)
from cyclegan.system.errors import UserError


class _Bounds(Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise impossible(f"low = {self.low} is not below high = {self.high}; raise high or lower low")
        return self


class Range(_Bounds):
    """Numbers between two bounds, both included."""

    low: NotNegative
    high: Positive
    scale: Literal["linear", "log"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale == "log" and self.low == 0:
            raise impossible("scale: log needs low above 0, but low = 0; raise low or set scale to linear")
        return self


class WholeRange(_Bounds):
    """Whole numbers between two bounds, both included."""

    low: Annotated[int, Field(ge=0, le=64)]
    high: Annotated[int, Field(ge=1, le=64)]


def choices(kind: Any) -> Any:
    """The type of a list of two or more different values of a kind."""

    def differ(values: list) -> list:
        if len(set(values)) < len(values):
            raise impossible("lists a value twice; list each once")
        return values

    return Annotated[list[kind], Field(min_length=2), AfterValidator(differ)]


class SearchSpace(Section):
    """The parameters that trials change; null keeps the value of the parameter's own section."""

    cycle: Range | None = Field(
        default=Range(low=0.5, high=20.0, scale="log"),
        description="Range of train.loss_weights.forward_cycle and backward_cycle, which get one value.",
    )
    identity: Range | None = Field(
        default=Range(low=0.0, high=5.0, scale="linear"), description="Range of train.loss_weights.identity."
    )
    adversarial: Range | None = Field(
        default=None,
        description="Range of train.loss_weights.adversarial.",
    )
    per_direction: bool = Field(
        default=False, description="Search a separate loss weight for each direction, and for each cycle."
    )
    blocks: WholeRange | None = Field(default=None, description="Range of model.blocks, such as {low: 3, high: 9}.")
    learning_rate: Range | None = Field(
        default=None, description="Range of train.learning_rate, such as {low: 0.0001, high: 0.001, scale: log}."
    )
    base_filters: choices(Annotated[int, Field(ge=1, le=1024)]) | None = Field(  # type: ignore[valid-type]
        default=None, description="Choices of model.base_filters, such as [16, 32, 64]."
    )
    norm: choices(Norm) | None = Field(  # type: ignore[valid-type]
        default=None, description="Choices of model.norm, such as [instance, batch]."
    )
    upsample: choices(Upsample) | None = Field(  # type: ignore[valid-type]
        default=None, description="Choices of model.upsample, such as [resize, transpose]."
    )
    adversarial_loss: choices(AdversarialLoss) | None = Field(  # type: ignore[valid-type]
        default=None, description="Choices of train.adversarial_loss, such as [least_squares, hinge]."
    )


class Objective(Section):
    """A weighted sum of validation metrics by which trials are compared."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w -]{0,31}$")]
    direction: Literal["maximize", "minimize"]
    terms: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("terms")
    @classmethod
    def _terms(cls, terms: dict[str, float]) -> dict[str, float]:
        # The data decides which metrics exist. Stage `search` refuses all others before it starts.
        for name, weight in terms.items():
            if re.fullmatch(r"(G_AtoB|G_BtoA|D_A|D_B)/.*", name):
                raise impossible(
                    f"{name} is a training loss, which does not measure quality; use a validation metric such as "
                    "val_AtoB/pair_psnr"
                )
            if not re.fullmatch(r"val_(AtoB|BtoA)/\w+", name):
                raise impossible(f"{name} is not a validation metric; use one such as val_AtoB/pair_psnr")
            if weight == 0:
                raise impossible(f"{name} has weight 0; remove it")
        return terms


def _mean_of_both(name: str, direction: Literal["maximize", "minimize"], metric: str) -> Objective:
    terms = {f"val_{way}/{metric}": 1 / len(DIRECTIONS) for way in DIRECTIONS}
    return Objective(name=name, direction=direction, terms=terms)


# `objectives: auto` is the first objective whose metrics the data has, as for `train.select: auto`.
AUTOMATIC = (_mean_of_both("pair PSNR", "maximize", "pair_psnr"), _mean_of_both("KID", "minimize", "kid"))


class Fidelity(Section):
    """Overrides that make trials cheaper than the final training; null: no override."""

    epochs: Count | None = Field(default=None, description="Override of train.epochs.")
    steps_per_epoch: Count | None = Field(default=None, description="Override of train.steps_per_epoch.")
    evaluate_every: Count | None = Field(default=None, description="Override of train.evaluate_every.")
    crop_size: Size | None = Field(default=None, description="Override of train.crop_size.")
    base_filters: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Override of model.base_filters."
    )
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Override of model.discriminator_filters."
    )

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return None if value is None else parse_size(value, "whole")


class Search(Section):
    """Stage search: Optuna chooses hyperparameters for stage train."""

    trials: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Number of trials. 0: no search.",
    )
    study: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
        description="Name of the Optuna study; a new name starts a new study.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sampler and of the trials.")
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Parallel processes on this machine, which share its cores; each takes a GPU.",
    )
    storage: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Storage of the study: null (a journal file in .search/), or a database such as "
        "postgresql://HOST/NAME, which workers on other machines can reach.",
    )
    command: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Command that runs one trial elsewhere (docs/search.md), such as srun --gpus 1 cyclegan search "
        "trial. null: run it on this machine.",
    )
    space: SearchSpace = Field(
        default=SearchSpace(),
        description="Parameters that trials change: a range, a list of choices, or null (not searched).",
    )
    objectives: Literal["auto"] | Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default="auto",
        description="Objectives: auto (pair_psnr, or kid without true pairs), or one or two weighted sums of columns "
        "of reports/train/validation.csv, such as [{name: KID, direction: minimize, terms: {val_AtoB/kid: 0.5, "
        "val_BtoA/kid: 0.5}}].",
    )
    pruner: Literal["none", "median", "hyperband"] = Field(
        default="none",
        description="Pruner, for one objective only: none, median (stop a trial that is worse than the median), or "
        "hyperband.",
    )
    fidelity: Fidelity = Field(
        default=Fidelity(), description="Cheaper trials: values that override the named parameter; null: no override."
    )
    finalists: int = Field(
        default=2, ge=1, le=20, description="Number of the best trials that are trained again, without fidelity."
    )
    repeats: int = Field(
        default=3,
        ge=2,
        le=20,
        description="Trainings of each finalist, with different seeds; a finalist must win by more than their spread.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fidelity.base_filters is not None and self.space.base_filters is not None:
            raise impossible(
                "search.fidelity.base_filters: also searched by search.space.base_filters; set one of them to null"
            )
        if self.objectives == "auto":
            return self
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise impossible(f"search.objectives: two have the name {names[0]!r}; give each its own name")
        if len(names) > 1 and self.pruner != "none":
            raise impossible(
                f"search.pruner: {self.pruner} needs one objective, but search.objectives has {len(names)}; "
                "set it to none"
            )
        metrics = [name for objective in self.objectives for name in objective.terms]
        if all(re.search(r"/(cycle|identity)_", name) for name in metrics):
            raise impossible(
                f"search.objectives: {', '.join(metrics)}: the identity baseline is perfect in these metrics; add one "
                "that compares with the target domain, such as val_AtoB/pair_psnr"
            )
        return self

    def resolved(self, available: Iterable[str]) -> Self:
        """Replace `auto` by its objectives on this data, and check the metrics.

        Args:
            available: validation metrics of the data.

        Raises:
            UserError: an objective has another metric.
        """
        series = list(available)
        if self.objectives == "auto":
            for objective in AUTOMATIC:
                if objective.terms.keys() <= set(series):
                    return self.model_copy(update={"objectives": [objective]})
            raise UserError(
                "search.objectives: auto needs true pairs or 2 images of each domain in the validation split; raise "
                "data.val_fraction or add images"
            )
        for name in [name for objective in self.objectives for name in objective.terms]:
            if name not in series:
                raise UserError(
                    f"search.objectives: {name}: the validation split yields no such metric; use some of "
                    f"{', '.join(series)}"
                )
        return self

    @property
    def compared(self) -> list[Objective]:
        """The objectives of a `resolved` search."""
        assert self.objectives != "auto"
        return self.objectives

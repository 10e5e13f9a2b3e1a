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
            raise impossible(f"low = {self.low} must be below high = {self.high}")
        return self


class Range(_Bounds):
    """Numbers between two bounds, both included."""

    low: NotNegative
    high: Positive
    scale: Literal["linear", "log"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale == "log" and self.low == 0:
            raise impossible("scale: log cannot reach low = 0; raise low above 0 or use scale: linear")
        return self


class WholeRange(_Bounds):
    """Whole numbers between two bounds, both included."""

    low: Annotated[int, Field(ge=0, le=64)]
    high: Annotated[int, Field(ge=1, le=64)]


def choices(kind: Any) -> Any:
    """Two or more different values of a kind, to choose from."""

    def differ(values: list) -> list:
        if len(set(values)) < len(values):
            raise impossible("names a value twice; name each once")
        return values

    return Annotated[list[kind], Field(min_length=2), AfterValidator(differ)]


class SearchSpace(Section):
    """What trials may change; null leaves a key as it is set in its own section."""

    cycle: Range | None = Field(
        default=Range(low=0.5, high=20.0, scale="log"),
        description="train.loss_weights.forward_cycle and backward_cycle, as one value.",
    )
    identity: Range | None = Field(
        default=Range(low=0.0, high=5.0, scale="linear"), description="train.loss_weights.identity."
    )
    adversarial: Range | None = Field(
        default=None,
        description="train.loss_weights.adversarial. Adam hardly sees a factor that all weights share.",
    )
    per_direction: bool = Field(
        default=False, description="Search each weight for each direction; for the cycles, one weight for each cycle."
    )
    blocks: WholeRange | None = Field(default=None, description="model.blocks, such as {low: 3, high: 9}.")
    learning_rate: Range | None = Field(
        default=None, description="train.learning_rate, such as {low: 0.0001, high: 0.001, scale: log}."
    )
    base_filters: choices(Annotated[int, Field(ge=1, le=1024)]) | None = Field(  # type: ignore[valid-type]
        default=None, description="model.base_filters, such as [16, 32, 64]."
    )
    norm: choices(Norm) | None = Field(  # type: ignore[valid-type]
        default=None, description="model.norm, such as [instance, batch]."
    )
    upsample: choices(Upsample) | None = Field(  # type: ignore[valid-type]
        default=None, description="model.upsample, such as [resize, transpose]."
    )
    adversarial_loss: choices(AdversarialLoss) | None = Field(  # type: ignore[valid-type]
        default=None, description="train.adversarial_loss, such as [least_squares, hinge]."
    )


class Objective(Section):
    """One metric by which trials are compared: a weighted sum of validation metrics."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w -]{0,31}$")]
    direction: Literal["maximize", "minimize"]
    terms: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("terms")
    @classmethod
    def _terms(cls, terms: dict[str, float]) -> dict[str, float]:
        # Which metrics there are depends on the data; stage `search` refuses the others before it starts.
        for name, weight in terms.items():
            if re.fullmatch(r"(G_AtoB|G_BtoA|D_A|D_B)/.*", name):
                raise impossible(
                    f"{name} is a loss of the training: it falls and rises with the other network's skill and does "
                    "not tell quality; use a validation metric such as val_AtoB/pair_psnr"
                )
            if not re.fullmatch(r"val_(AtoB|BtoA)/\w+", name):
                raise impossible(f"{name} must be a validation metric, such as val_AtoB/pair_psnr")
            if weight == 0:
                raise impossible(f"{name} has weight 0; remove it")
        return terms


def _mean_of_both(name: str, direction: Literal["maximize", "minimize"], metric: str) -> Objective:
    terms = {f"val_{way}/{metric}": 1 / len(DIRECTIONS) for way in DIRECTIONS}
    return Objective(name=name, direction=direction, terms=terms)


# What `objectives: auto` stands for, as `train.select: auto`: the first whose metrics the data allows.
AUTOMATIC = (_mean_of_both("pair PSNR", "maximize", "pair_psnr"), _mean_of_both("KID", "minimize", "kid"))


class Fidelity(Section):
    """How trials are made cheaper than the final training; null leaves a key as it is set in its own section."""

    epochs: Count | None = Field(default=None, description="train.epochs.")
    steps_per_epoch: Count | None = Field(default=None, description="train.steps_per_epoch.")
    evaluate_every: Count | None = Field(default=None, description="train.evaluate_every.")
    crop_size: Size | None = Field(default=None, description="train.crop_size.")
    base_filters: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, description="model.base_filters.")
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="model.discriminator_filters."
    )

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return None if value is None else parse_size(value, "whole")


class Search(Section):
    """Stage search: Optuna chooses loss weights and networks for stage train."""

    trials: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Hyperparameter settings to try. 0: no search; train uses this file as it is.",
    )
    study: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
        description="Name of the Optuna study. The same name continues a study, another one starts another.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the choices and of the trials.")
    workers: int = Field(
        default=1, ge=1, le=256, description="Processes that run trials at once on this machine; they share its cores."
    )
    storage: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Where the study lives. null: a journal file in .search/; or a database that workers on other "
        "machines reach too, such as postgresql://HOST/NAME.",
    )
    command: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A command that runs one trial elsewhere, such as srun --gpus 1 cyclegan search trial "
        "(docs/search.md). null: train here.",
    )
    space: SearchSpace = Field(
        default=SearchSpace(),
        description="What trials may change: a range or a list of choices for each key. null: not searched.",
    )
    objectives: Literal["auto"] | Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default="auto",
        description="What trials are compared by. auto: pair_psnr, or kid where there are no true pairs, as "
        "train.select. Or one or two objectives, such as [{name: KID, direction: minimize, terms: {val_AtoB/kid: 0.5, "
        "val_BtoA/kid: 0.5}}]: weighted sums of columns of reports/train/validation.csv. With two, the report shows "
        "the Pareto front.",
    )
    pruner: Literal["none", "median", "hyperband"] = Field(
        default="none",
        description="none, median (stops a trial that is worse than the median at the same point), or hyperband; for "
        "one objective.",
    )
    fidelity: Fidelity = Field(
        default=Fidelity(), description="Cheaper trials: values that override the key of the same name. null: as there."
    )
    finalists: int = Field(
        default=2, ge=1, le=20, description="How many of the best settings are trained again, without fidelity."
    )
    repeats: int = Field(
        default=3,
        ge=2,
        le=20,
        description="Trainings of each finalist, with other seeds. A setting must win by more than their spread.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fidelity.base_filters is not None and self.space.base_filters is not None:
            raise impossible(
                "search.fidelity.base_filters fixes what search.space.base_filters searches; set one of them to null"
            )
        if self.objectives == "auto":
            return self
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise impossible(f"search.objectives both have the name {names[0]!r}; give each its own")
        if len(names) > 1 and self.pruner != "none":
            raise impossible(
                f"search.pruner: {self.pruner} needs one objective, but search.objectives has {len(names)}; "
                "set it to none"
            )
        metrics = [name for objective in self.objectives for name in objective.terms]
        if all(re.search(r"/(cycle|identity)_", name) for name in metrics):
            raise impossible(
                f"search.objectives has only {', '.join(metrics)}, in which a generator that changes nothing is "
                "perfect; add a metric that compares with the target domain, such as val_AtoB/pair_psnr"
            )
        return self

    def resolved(self, available: Iterable[str]) -> Self:
        """The same with the objectives that `auto` stands for on this data.

        Args:
            available: the data's validation series.

        Raises:
            UserError: an objective has a metric that is not among them.
        """
        series = list(available)
        if self.objectives == "auto":
            for objective in AUTOMATIC:
                if objective.terms.keys() <= set(series):
                    return self.model_copy(update={"objectives": [objective]})
            raise UserError(
                "search.objectives: auto: the validation split has no true pairs, and KID needs 2 images of each "
                "domain; raise data.val_fraction or add images"
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
        """The objectives, once they are `resolved`."""
        assert self.objectives != "auto"
        return self.objectives

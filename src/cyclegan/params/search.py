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

    cycle: Range | None
    identity: Range | None
    adversarial: Range | None
    per_direction: bool
    blocks: WholeRange | None
    learning_rate: Range | None
    base_filters: choices(Annotated[int, Field(ge=1, le=1024)]) | None  # type: ignore[valid-type]
    norm: choices(Norm) | None  # type: ignore[valid-type]
    upsample: choices(Upsample) | None  # type: ignore[valid-type]
    adversarial_loss: choices(AdversarialLoss) | None  # type: ignore[valid-type]


class Objective(Section):
    """One figure by which trials are compared: a weighted sum of validation figures."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w -]{0,31}$")]
    direction: Literal["maximize", "minimize"]
    terms: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]

    @field_validator("terms")
    @classmethod
    def _terms(cls, terms: dict[str, float]) -> dict[str, float]:
        # Which figures there are depends on the data; stage `search` refuses the others before it starts.
        for name, weight in terms.items():
            if re.fullmatch(r"(G_AtoB|G_BtoA|D_A|D_B)/.*", name):
                raise impossible(
                    f"{name} is a loss of the training: it falls and rises with the other network's skill and does "
                    "not tell quality; use a validation figure such as val_AtoB/pair_psnr"
                )
            if not re.fullmatch(r"val_(AtoB|BtoA)/\w+", name):
                raise impossible(f"{name} must be a validation figure, such as val_AtoB/pair_psnr")
            if weight == 0:
                raise impossible(f"{name} has weight 0; remove it")
        return terms


def _mean_of_both(name: str, direction: Literal["maximize", "minimize"], figure: str) -> Objective:
    terms = {f"val_{way}/{figure}": 1 / len(DIRECTIONS) for way in DIRECTIONS}
    return Objective(name=name, direction=direction, terms=terms)


# What `objectives: auto` stands for, as `train.select: auto`: the first whose metrics the data allows.
AUTOMATIC = (_mean_of_both("pair PSNR", "maximize", "pair_psnr"), _mean_of_both("KID", "minimize", "kid"))


class Fidelity(Section):
    """How trials are made cheaper than the final training; null leaves a key as it is set in its own section."""

    epochs: Count | None
    steps_per_epoch: Count | None
    evaluate_every: Count | None
    crop_size: Size | None
    base_filters: Annotated[int, Field(ge=1, le=1024)] | None
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)] | None

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return None if value is None else parse_size(value, "whole")


class Search(Section):
    """Stage `search`."""

    trials: Annotated[int, Field(ge=0, le=100_000)]
    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    workers: Annotated[int, Field(ge=1, le=256)]
    storage: Annotated[str, Field(min_length=1)] | None
    command: Annotated[str, Field(min_length=1)] | None
    space: SearchSpace
    objectives: Literal["auto"] | Annotated[list[Objective], Field(min_length=1, max_length=2)]
    pruner: Literal["none", "median", "hyperband"]
    fidelity: Fidelity
    finalists: Annotated[int, Field(ge=1, le=20)]
    repeats: Annotated[int, Field(ge=2, le=20)]

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
        figures = [name for objective in self.objectives for name in objective.terms]
        if all(re.search(r"/(cycle|identity)_", name) for name in figures):
            raise impossible(
                f"search.objectives has only {', '.join(figures)}, in which a generator that changes nothing is "
                "perfect; add a figure that compares with the target domain, such as val_AtoB/pair_psnr"
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
                    f"search.objectives: {name}: the validation split yields no such figure; use some of "
                    f"{', '.join(series)}"
                )
        return self

    @property
    def compared(self) -> list[Objective]:
        """The objectives, once they are `resolved`."""
        assert self.objectives != "auto"
        return self.objectives

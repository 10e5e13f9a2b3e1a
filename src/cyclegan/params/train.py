"""Section `train`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from cyclegan.params.section import (
    AdversarialLoss,
    Count,
    Fraction,
    NotNegative,
    Positive,
    Section,
    Size,
    impossible,
    parse_size,
)


class Directions(Section):
    """One weight for each generator."""

    AtoB: NotNegative
    BtoA: NotNegative


# The default of a loss term that was added after the first four.
OFF = Directions(AtoB=0.0, BtoA=0.0)


class LossWeights(Section):
    """Weights of the terms of a generator's loss, as one number or as `{AtoB: …, BtoA: …}`.

    The terms are those of `training.losses.GENERATOR_TERMS`. A term that is added needs the default `OFF`, so that the
    parameters of earlier trainings stay valid.
    """

    # Terms that compare images of both domains, which needs equal channels.
    COMPARING: ClassVar = ("identity",)

    adversarial: Directions
    identity: Directions
    forward_cycle: Directions
    backward_cycle: Directions

    @field_validator("*", mode="before")
    @classmethod
    def _same_both_ways(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"AtoB": value, "BtoA": value}
        if not isinstance(value, dict):
            raise impossible("must be a number, or {AtoB: number, BtoA: number}")
        return value


class Plateau(Section):
    """When `lr_policy: plateau` lowers the learning rate, and by how much."""

    metric: str
    patience: Count
    factor: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        # Which figures there are depends on the data; stage `train` refuses the others before it starts.
        if not re.fullmatch(r"val_(AtoB|BtoA)/(kid|[a-z_]+_(l1|psnr|ssim))", value):
            raise impossible(
                "must be a validation figure: kid, or one that ends in l1, psnr or ssim, such as val_AtoB/kid"
            )
        return value


class OnDivergence(Section):
    """What to do when a loss or a weight becomes NaN or infinite."""

    retries: Annotated[int, Field(ge=0, le=100)]
    factor: Annotated[float, Field(gt=0, lt=1)]


class Train(Section):
    """Stage `train`."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    epochs: Count
    extend: bool
    steps_per_epoch: Literal["auto"] | Count
    batch_size: Annotated[int, Field(ge=1, le=1024)]
    crop_size: Literal["whole"] | Size
    flip: bool
    update_order: Literal["joint", "sequential"]
    adversarial_loss: AdversarialLoss
    loss_weights: LossWeights
    gradient_penalty: NotNegative
    r1_penalty: NotNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    pool_size: Annotated[int, Field(ge=0, le=100_000)]
    discriminator_batch: Annotated[int, Field(ge=2, le=1024)] | None
    learning_rate: Positive
    beta_1: Fraction
    beta_2: Fraction
    gradient_clip_norm: Positive | None
    lr_policy: Literal["constant", "linear", "cosine", "step", "plateau"]
    lr_decay_start: Annotated[float, Field(ge=0, le=1)] | None
    plateau: Plateau | None
    on_divergence: OnDivergence
    diff_augment: list[Literal["color", "translation", "cutout"]]
    ema_decay: Fraction
    mixed_precision: bool
    gradient_checkpointing: bool
    deterministic: bool
    jit_compile: Literal["auto"] | bool
    log_every: Count
    evaluate_every: Count
    select: str
    early_stop: Count | None
    checkpoint_every: Positive
    keep_checkpoints: Count
    sample_images: Annotated[int, Field(ge=1, le=64)]

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "whole")

    @field_validator("select")
    @classmethod
    def _selectable(cls, value: str) -> str:
        # Cycle and identity figures are perfect for a generator that does nothing.
        if not re.fullmatch(r"auto|last|(val_(AtoB|BtoA)/)?(kid|pair_psnr|pair_ssim)", value):
            raise impossible(
                "must be auto, last, kid, pair_psnr or pair_ssim, or one of a single direction: val_AtoB/kid"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.early_stop is not None and self.select == "last":
            raise impossible("train.early_stop needs a figure to watch, but train.select is last; set it to auto")
        weights = self.loss_weights
        for direction in ("AtoB", "BtoA"):
            if not any(getattr(getattr(weights, term), direction) for term in LossWeights.model_fields):
                raise impossible(
                    f"train.loss_weights are all 0 for {direction}, whose generator learns nothing; raise one above 0"
                )
        if self.update_order == "joint" and (
            weights.forward_cycle.AtoB != weights.backward_cycle.BtoA
            or weights.forward_cycle.BtoA != weights.backward_cycle.AtoB
        ):
            raise impossible(
                "train.loss_weights: with train.update_order: joint each cycle is counted once, so forward_cycle of "
                "one direction must equal backward_cycle of the other; make them equal or use update_order: sequential"
            )
        if self.discriminator_batch is not None and self.discriminator_batch <= self.batch_size:
            raise impossible(
                f"train.discriminator_batch = {self.discriminator_batch} adds no picture to train.batch_size = "
                f"{self.batch_size}; raise it, or set it to null"
            )
        if self.discriminator_batch is not None and self.pool_size == 0:
            raise impossible(
                "train.discriminator_batch draws earlier pictures, but train.pool_size = 0 keeps none; "
                "set train.discriminator_batch to null, or train.pool_size to 50"
            )
        if self.gradient_penalty > 0 and self.adversarial_loss != "wasserstein":
            raise impossible(
                f"train.gradient_penalty = {self.gradient_penalty} belongs to train.adversarial_loss: wasserstein; "
                "set it to 0, or use train.r1_penalty"
            )
        if self.adversarial_loss == "wasserstein" and self.gradient_penalty == 0:
            raise impossible(
                "train.gradient_penalty = 0 leaves train.adversarial_loss: wasserstein without its Lipschitz "
                "constraint; set it to 10 (Gulrajani et al. 2017)"
            )
        if self.label_smoothing > 0 and self.adversarial_loss not in ("least_squares", "vanilla"):
            raise impossible(
                f"train.label_smoothing = {self.label_smoothing} has no labels to smooth with "
                f"train.adversarial_loss: {self.adversarial_loss}; set it to 0"
            )
        if self.jit_compile is True and self.deterministic:
            raise impossible(
                "train.jit_compile: true has no effect with train.deterministic: true, where Keras compiles nothing; "
                "set one of them to false"
            )
        decays = self.lr_policy in ("linear", "cosine", "step")
        if decays and self.lr_decay_start is None:
            raise impossible(f"train.lr_decay_start is null: train.lr_policy: {self.lr_policy} needs it; set it to 0.5")
        if not decays and self.lr_decay_start is not None:
            raise impossible(
                f"train.lr_decay_start has no effect with train.lr_policy: {self.lr_policy}; set it to null"
            )
        if self.lr_policy == "plateau" and self.plateau is None:
            raise impossible(
                "train.plateau is null: train.lr_policy: plateau needs it; "
                "set it to {metric: val_AtoB/cycle_l1, patience: 5, factor: 0.2}"
            )
        if self.lr_policy != "plateau" and self.plateau is not None:
            raise impossible(
                f"train.plateau is only read with train.lr_policy: plateau, not {self.lr_policy!r}; set it to null"
            )
        if len(set(self.diff_augment)) < len(self.diff_augment):
            raise impossible(f"train.diff_augment = {self.diff_augment} names a transform twice; name each once")
        return self

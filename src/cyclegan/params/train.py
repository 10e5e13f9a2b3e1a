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

    adversarial: Directions = Field(
        default=Directions(AtoB=1.0, BtoA=1.0),
        description="The discriminator takes the translation for real. Paper: 1.",
    )
    identity: Directions = Field(
        default=Directions(AtoB=5.0, BtoA=5.0),
        description="An image of the target domain stays as it is. Paper: 5, or 0.",
    )
    forward_cycle: Directions = Field(
        default=Directions(AtoB=10.0, BtoA=10.0),
        description="There and back, from the generator's own domain. Paper: 10.",
    )
    backward_cycle: Directions = Field(
        default=Directions(AtoB=10.0, BtoA=10.0), description="There and back, from the other domain. Paper: 10."
    )

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
        # Which metrics there are depends on the data; stage `train` refuses the others before it starts.
        if not re.fullmatch(r"val_(AtoB|BtoA)/(kid|[a-z_]+_(l1|psnr|ssim))", value):
            raise impossible(
                "must be a validation metric: kid, or one that ends in l1, psnr or ssim, such as val_AtoB/kid"
            )
        return value


class OnDivergence(Section):
    """What to do when a loss or a weight becomes NaN or infinite."""

    retries: int = Field(
        default=0,
        ge=0,
        le=100,
        description="How often to return to the state of the last evaluation with a lower learning rate; 0: stop. "
        "Above 0, MLflow gets the points of a series one evaluation late.",
    )
    factor: float = Field(default=0.5, gt=0, lt=1, description="Factor on the learning rate each time, 0…1.")


class Train(Section):
    """Stage train."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of weights, order, augmentation and image pools.")
    epochs: Count = Field(default=200, description="Passes over the larger domain. Paper: 200.")
    extend: bool = Field(
        default=True,
        description="Continue a finished training that differs only in fewer epochs. The learning rate then follows "
        "the new length. false: start a new training.",
    )
    steps_per_epoch: Literal["auto"] | Count = Field(
        default="auto", description="Steps in an epoch. auto: as many batches as the larger domain has."
    )
    batch_size: int = Field(default=1, ge=1, le=1024, description="Images of each domain in a step.")
    crop_size: Literal["whole"] | Size = Field(
        default=(256, 256),
        description="Random crop in pixels, one number or [height, width], at most data.load_size. whole: no crop, for "
        "images of one size.",
    )
    flip: bool = Field(
        default=True, description="Mirror images at random. Not for lettering, or for light that comes from one side."
    )
    update_order: Literal["joint", "sequential"] = Field(
        default="joint",
        description="joint (reference implementation) or sequential (tutorial and original Torch code).",
    )
    adversarial_loss: AdversarialLoss = Field(
        default="least_squares", description="least_squares (paper), vanilla, hinge or wasserstein."
    )
    loss_weights: LossWeights = Field(
        default=LossWeights(),
        description="Weights of the terms of a generator's loss, each a number or {AtoB: …, BtoA: …}.",
    )
    gradient_penalty: NotNegative = Field(
        default=0.0, description="Weight of WGAN-GP's gradient penalty, for wasserstein; usually 10."
    )
    r1_penalty: NotNegative = Field(default=0.0, description="Weight of the R1 penalty on real images.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="The discriminators' target for real images is 1 minus this, 0…0.5."
    )
    pool_size: int = Field(
        default=50, ge=0, le=100_000, description="Earlier translations kept for each discriminator. Paper: 50."
    )
    discriminator_batch: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        default=None,
        description="Real images, and translations, that a discriminator sees in a step; those beyond batch_size come "
        "from the image pools. More teaches the discriminators faster. null: batch_size (paper).",
    )
    learning_rate: Positive = Field(default=0.0002, description="Learning rate of Adam. Paper: 0.0002.")
    beta_1: Fraction = Field(default=0.5, description="Decay of Adam's mean. Paper: 0.5.")
    beta_2: Fraction = Field(default=0.999, description="Decay of Adam's mean of squares.")
    gradient_clip_norm: Positive | None = Field(
        default=None, description="Largest norm of a network group's gradient; null: no limit."
    )
    lr_policy: Literal["constant", "linear", "cosine", "step", "plateau"] = Field(
        default="linear",
        description="How the learning rate falls: constant, linear (paper), cosine, step, or plateau (when a "
        "validation metric stops improving).",
    )
    lr_decay_start: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=0.5, description="Share of the training after which the learning rate falls. Paper: 0.5."
    )
    plateau: Plateau | None = Field(
        default=None,
        description="For lr_policy: plateau, such as {metric: val_AtoB/kid, patience: 5, factor: 0.2}: multiply the "
        "learning rate by factor after patience evaluations without a new best. A metric is a column of "
        "reports/train/validation.csv.",
    )
    on_divergence: OnDivergence = Field(
        default=OnDivergence(), description="What to do when a loss or a weight becomes NaN or infinite."
    )
    diff_augment: list[Literal["color", "translation", "cutout"]] = Field(
        default=[],
        description="Differentiable augmentation of all that the discriminators see (Zhao et al. 2020), for a few "
        "hundred images or fewer: any of color, translation and cutout.",
    )
    ema_decay: Fraction = Field(
        default=0.0,
        description="Decay of the moving average of the generators' weights, which is then evaluated; 0: none.",
    )
    mixed_precision: bool = Field(default=False, description="bfloat16 arithmetic with float32 weights; for GPUs.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute the insides of residual blocks again for the gradient: less memory, slower steps. For "
        "resnet without dropout and batch normalization.",
    )
    deterministic: bool = Field(
        default=False, description="The same numbers in every run on one machine. Some GPU operations become slower."
    )
    jit_compile: Literal["auto"] | bool = Field(
        default="auto", description="Compile with XLA. auto: on a GPU, unless deterministic."
    )
    log_every: Count = Field(default=100, description="Steps between two points of a series; each evaluation adds one.")
    evaluate_every: Count = Field(default=1, description="Epochs between two evaluations on the validation split.")
    select: str = Field(
        default="auto",
        description="Which evaluation's generators are kept: the best by kid, pair_psnr or pair_ssim (mean of both "
        "directions; val_AtoB/kid: of one), by auto (pair_psnr, or kid where there are no true pairs), or last.",
    )
    early_stop: Count | None = Field(
        default=None, description="Stop after this many evaluations without a new best by select; null: never."
    )
    checkpoint_every: Positive = Field(default=5.0, description="Minutes between two checkpoints.")
    keep_checkpoints: Count = Field(default=2, description="Checkpoints kept.")
    sample_images: int = Field(default=6, ge=1, le=64, description="Validation images in the sample grids.")

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "whole")

    @field_validator("select")
    @classmethod
    def _selectable(cls, value: str) -> str:
        # Cycle and identity metrics are perfect for a generator that does nothing.
        if not re.fullmatch(r"auto|last|(val_(AtoB|BtoA)/)?(kid|pair_psnr|pair_ssim)", value):
            raise impossible(
                "must be auto, last, kid, pair_psnr or pair_ssim, or one of a single direction: val_AtoB/kid"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.early_stop is not None and self.select == "last":
            raise impossible("train.early_stop needs a metric to watch, but train.select is last; set it to auto")
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
                f"train.discriminator_batch = {self.discriminator_batch} adds no image to train.batch_size = "
                f"{self.batch_size}; raise it, or set it to null"
            )
        if self.discriminator_batch is not None and self.pool_size == 0:
            raise impossible(
                "train.discriminator_batch draws earlier images, but train.pool_size = 0 keeps none; "
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
        decays = self.lr_policy in ("linear", "cosine", "step")
        if decays and self.lr_decay_start is None:
            raise impossible(f"train.lr_decay_start is null: train.lr_policy: {self.lr_policy} needs it; set it to 0.5")
        if self.lr_policy == "plateau" and self.plateau is None:
            raise impossible(
                "train.plateau is null: train.lr_policy: plateau needs it; "
                "set it to {metric: val_AtoB/cycle_l1, patience: 5, factor: 0.2}"
            )
        if len(set(self.diff_augment)) < len(self.diff_augment):
            raise impossible(f"train.diff_augment = {self.diff_augment} names a transform twice; name each once")
        return self

    @property
    def without_effect(self) -> list[str]:
        """A line for each key that is set but not read."""
        lines = []
        if self.adversarial_loss not in ("least_squares", "vanilla"):
            lines += self.unread("train", ("label_smoothing",), f"train.adversarial_loss: {self.adversarial_loss}")
        if self.jit_compile is True and self.deterministic:
            lines += self.unread("train", ("jit_compile",), "train.deterministic: true, which compiles nothing")
        if self.lr_policy in ("constant", "plateau"):
            lines += self.unread("train", ("lr_decay_start",), f"train.lr_policy: {self.lr_policy}")
        if self.lr_policy != "plateau":
            lines += self.unread("train", ("plateau",), f"train.lr_policy: {self.lr_policy}")
        return lines

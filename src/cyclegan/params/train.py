"""Section `train`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

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

# Folder of the networks that a training starts from. dvc.yaml lists it.
PRETRAINED = "data/pretrained"
# Start of the address of a registered model.
REGISTERED = "models:/"


class Directions(Section):
    """One weight for each generator."""

    AtoB: NotNegative
    BtoA: NotNegative


# Default of every loss term that is added to the first four.
OFF = Directions(AtoB=0.0, BtoA=0.0)


class LossWeights(Section):
    """Weights of the terms of a generator's loss, as one number or as `{AtoB: …, BtoA: …}`.

    The terms are those of `training.losses.GENERATOR_TERMS`. A new term needs the default `OFF`: it keeps the
    parameters of earlier trainings valid.
    """

    # Terms that compare images of both domains need equal channels.
    COMPARING: ClassVar = ("identity",)

    adversarial: Directions = Field(
        default=Directions(AtoB=1.0, BtoA=1.0),
        description="Adversarial loss (paper: 1).",
    )
    identity: Directions = Field(
        default=Directions(AtoB=5.0, BtoA=5.0),
        description="Identity loss: an image of the target domain stays the same (paper: 5 or 0).",
    )
    forward_cycle: Directions = Field(
        default=Directions(AtoB=10.0, BtoA=10.0),
        description="Cycle loss from the generator's source domain (paper: 10).",
    )
    backward_cycle: Directions = Field(
        default=Directions(AtoB=10.0, BtoA=10.0),
        description="Cycle loss from the generator's target domain (paper: 10).",
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
    """Condition and factor with which `lr_policy: plateau` lowers the learning rate."""

    metric: str
    patience: Count
    factor: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        # The data decides which metrics exist. Stage `train` refuses all others before it starts.
        if not re.fullmatch(r"val_(AtoB|BtoA)/(kid|[a-z_]+_(l1|psnr|ssim))", value):
            raise impossible("must be a validation metric that ends in kid, l1, psnr or ssim, such as val_AtoB/kid")
        return value


class OnDivergence(Section):
    """Reaction to a loss or a weight that becomes NaN or infinite."""

    retries: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Retries from the last evaluation with a lower learning rate. 0: stop.",
    )
    factor: float = Field(default=0.5, gt=0, lt=1, description="Factor on the learning rate at each retry, 0…1.")


class InitializeFrom(Section):
    """Networks that a training starts from; null: new weights."""

    G_AtoB: str | None = Field(default=None, description="Generator from A to B.")
    G_BtoA: str | None = Field(default=None, description="Generator from B to A.")
    D_A: str | None = Field(default=None, description="Discriminator of images of A; a file only.")
    D_B: str | None = Field(default=None, description="Discriminator of images of B; a file only.")

    @field_validator("*")
    @classmethod
    def _watched(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if value.startswith(REGISTERED):
            if str(info.field_name).startswith("D_"):
                raise impossible(f"the registry holds no discriminators; use a .keras file in {PRETRAINED}/")
            # An alias may move, which DVC would not notice.
            if not re.fullmatch(r"models:/[^/:@]+/[1-9]\d*", value):
                raise impossible("must name a version, as in models:/NAME/1 ('cyclegan registry list')")
        elif not re.fullmatch(rf"{PRETRAINED}/(?!.*\.\.)[^/].*\.keras", value):
            raise impossible(
                f"must be a .keras file in {PRETRAINED}/, which DVC watches, or models:/NAME/VERSION; copy it there"
            )
        return value


class Train(Section):
    """Stage train."""

    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the weights, the order, the augmentation and the image pools."
    )
    epochs: Count = Field(default=200, description="Passes over the larger domain (paper: 200).")
    extend: bool = Field(
        default=True,
        description="Continue a finished training that differs only in fewer epochs. false: start again.",
    )
    initialize_from: InitializeFrom = Field(
        default=InitializeFrom(),
        description="Networks that the training starts from: a .keras file in data/pretrained/, or "
        "models:/NAME/VERSION of the registry. null: new weights.",
    )
    steps_per_epoch: Literal["auto"] | Count = Field(
        default="auto", description="Steps per epoch: a number, or auto (the batches of the larger domain)."
    )
    batch_size: int = Field(default=1, ge=1, le=1024, description="Images of each domain per step (paper: 1).")
    crop_size: Literal["whole"] | Size = Field(
        default=(256, 256),
        description="Random crop in pixels: one number, [height, width], or whole (no crop, for images of one size).",
    )
    flip: bool = Field(
        default=True, description="Mirror images at random, unless left and right matter (such as text)."
    )
    update_order: Literal["joint", "sequential"] = Field(
        default="joint",
        description="Order of updates: joint (reference implementation), or sequential (Keras tutorial).",
    )
    adversarial_loss: AdversarialLoss = Field(
        default="least_squares", description="Adversarial loss: least_squares (paper), vanilla, hinge or wasserstein."
    )
    loss_weights: LossWeights = Field(
        default=LossWeights(),
        description="Weights of the generator's loss terms, each one number or {AtoB: …, BtoA: …}.",
    )
    gradient_penalty: NotNegative = Field(
        default=0.0, description="Weight of the gradient penalty (WGAN-GP: 10), for wasserstein only."
    )
    r1_penalty: NotNegative = Field(default=0.0, description="Weight of the R1 gradient penalty on real images.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Target for real images is 1 minus this value, 0…0.5."
    )
    pool_size: int = Field(
        default=50,
        ge=0,
        le=100_000,
        description="Earlier translations that each discriminator's image pool holds (paper: 50).",
    )
    discriminator_batch: Annotated[int, Field(ge=2, le=1024)] | None = Field(
        default=None,
        description="Images per step of each discriminator; those beyond batch_size come from the image pools. null: "
        "batch_size (paper).",
    )
    learning_rate: Positive = Field(default=0.0002, description="Learning rate of Adam (paper: 0.0002).")
    beta_1: Fraction = Field(default=0.5, description="Decay of Adam's first moment (paper: 0.5).")
    beta_2: Fraction = Field(default=0.999, description="Decay of Adam's second moment (paper: 0.999).")
    gradient_clip_norm: Positive | None = Field(
        default=None,
        description="Largest norm of each optimizer's gradient. null: no limit.",
    )
    lr_policy: Literal["constant", "linear", "cosine", "step", "plateau"] = Field(
        default="linear",
        description="Learning rate schedule: constant, linear (paper), cosine, step, or plateau.",
    )
    lr_decay_start: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=0.5, description="Share of the training after which the learning rate falls, 0…1 (paper: 0.5)."
    )
    plateau: Plateau | None = Field(
        default=None,
        description="For lr_policy: plateau: multiply the learning rate by factor after patience evaluations without a "
        "new best metric, such as {metric: val_AtoB/kid, patience: 5, factor: 0.2}.",
    )
    on_divergence: OnDivergence = Field(
        default=OnDivergence(), description="Reaction to a loss or a weight that becomes NaN or infinite."
    )
    diff_augment: list[Literal["color", "translation", "cutout"]] = Field(
        default=[],
        description="Differentiable augmentation (Zhao et al. 2020) for small data sets: any of color, translation, "
        "cutout.",
    )
    ema_decay: Fraction = Field(
        default=0.0,
        description="Decay of the moving average of the generators' weights, which is then evaluated. 0: none.",
    )
    mixed_precision: Literal["auto"] | bool = Field(
        default=False,
        description="Compute in bfloat16 with float32 weights: true, false, or auto (if this GPU or CPU has "
        "instructions for it).",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute residual blocks in the backward pass: less memory, slower steps; for resnet without "
        "dropout and batch normalization.",
    )
    deterministic: bool = Field(
        default=False, description="Equal results in every run on one machine; some GPU operations become slower."
    )
    jit_compile: Literal["auto"] | bool = Field(
        default="auto", description="Compile with XLA: true, false, or auto (on one GPU, unless deterministic)."
    )
    devices: Literal["auto"] | Count = Field(
        default="auto",
        description="GPUs of this machine that train together on each batch: a number that divides batch_size, or auto "
        "(the most that divide it). Several hosts: docs/devices.md.",
    )
    log_every: Count = Field(
        default=100, description="Steps between two logged points of the losses; each evaluation adds one."
    )
    evaluate_every: Count = Field(default=1, description="Epochs between two evaluations on the validation split.")
    select: str = Field(
        default="auto",
        description="Generators that are kept: those of the last evaluation (last), or of the best by kid, pair_psnr, "
        "pair_ssim (mean of both directions), one direction (such as val_AtoB/kid), or auto (pair_psnr, or kid without "
        "true pairs).",
    )
    early_stop: Count | None = Field(
        default=None, description="Stop after this many evaluations without a new best by select. null: never."
    )
    checkpoint_every: Positive = Field(default=5.0, description="Minutes between two checkpoints.")
    keep_checkpoints: Count = Field(default=2, description="Number of checkpoints that are kept.")
    sample_images: int = Field(default=6, ge=1, le=64, description="Validation images in each sample grid.")

    @field_validator("initialize_from", mode="before")
    @classmethod
    def _no_networks(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("crop_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value, "whole")

    @field_validator("select")
    @classmethod
    def _selectable(cls, value: str) -> str:
        # The identity baseline is perfect in cycle and identity metrics.
        if not re.fullmatch(r"auto|last|(val_(AtoB|BtoA)/)?(kid|pair_psnr|pair_ssim)", value):
            raise impossible(
                "must be auto, last, kid, pair_psnr or pair_ssim, or a metric of one direction such as val_AtoB/kid"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.early_stop is not None and self.select == "last":
            raise impossible(
                f"train.early_stop = {self.early_stop}: needs a metric, but train.select is last; set select to auto"
            )
        weights = self.loss_weights
        for direction in ("AtoB", "BtoA"):
            if not any(getattr(getattr(weights, term), direction) for term in LossWeights.model_fields):
                raise impossible(
                    f"train.loss_weights: all are 0 for {direction}, whose generator learns nothing; raise one above 0"
                )
        if self.update_order == "joint" and (
            weights.forward_cycle.AtoB != weights.backward_cycle.BtoA
            or weights.forward_cycle.BtoA != weights.backward_cycle.AtoB
        ):
            raise impossible(
                "train.loss_weights: train.update_order: joint needs forward_cycle of each direction equal to "
                "backward_cycle of the other; make them equal or set train.update_order: sequential"
            )
        if self.discriminator_batch is not None and self.discriminator_batch <= self.batch_size:
            raise impossible(
                f"train.discriminator_batch = {self.discriminator_batch}: not above train.batch_size = "
                f"{self.batch_size}; raise it, or set it to null"
            )
        if self.discriminator_batch is not None and self.pool_size == 0:
            raise impossible(
                f"train.discriminator_batch = {self.discriminator_batch}: needs image pools, but train.pool_size = 0; "
                "set train.discriminator_batch to null, or train.pool_size to 50"
            )
        if self.gradient_penalty > 0 and self.adversarial_loss != "wasserstein":
            raise impossible(
                f"train.gradient_penalty = {self.gradient_penalty}: needs train.adversarial_loss: wasserstein; "
                "set it to 0, or use train.r1_penalty"
            )
        if self.adversarial_loss == "wasserstein" and self.gradient_penalty == 0:
            raise impossible(
                "train.gradient_penalty = 0: train.adversarial_loss: wasserstein needs a Lipschitz constraint; set it "
                "to 10 (Gulrajani et al. 2017)"
            )
        if self.devices != "auto":
            for key, size in (("batch_size", self.batch_size), ("discriminator_batch", self.discriminator_batch or 0)):
                if size % self.devices:
                    raise impossible(
                        f"train.devices = {self.devices}: does not divide train.{key} = {size}; set it to auto, or set "
                        f"train.{key} to a multiple"
                    )
        decays = self.lr_policy in ("linear", "cosine", "step")
        if decays and self.lr_decay_start is None:
            raise impossible(
                f"train.lr_decay_start: null, but train.lr_policy: {self.lr_policy} needs it; set it to 0.5"
            )
        if self.lr_policy == "plateau" and self.plateau is None:
            raise impossible(
                "train.plateau: null, but train.lr_policy: plateau needs it; "
                "set it to {metric: val_AtoB/cycle_l1, patience: 5, factor: 0.2}"
            )
        if len(set(self.diff_augment)) < len(self.diff_augment):
            raise impossible(f"train.diff_augment = {self.diff_augment}: lists a transform twice; list each once")
        return self

    @property
    def without_effect(self) -> list[str]:
        """Warnings of keys that are set but not read, one line for each."""
        lines = []
        if self.adversarial_loss not in ("least_squares", "vanilla"):
            lines += self.unread("train", ("label_smoothing",), f"train.adversarial_loss: {self.adversarial_loss}")
        if self.jit_compile is True and self.deterministic:
            lines += self.unread("train", ("jit_compile",), "train.deterministic: true")
        if self.lr_policy in ("constant", "plateau"):
            lines += self.unread("train", ("lr_decay_start",), f"train.lr_policy: {self.lr_policy}")
        if self.lr_policy != "plateau":
            lines += self.unread("train", ("plateau",), f"train.lr_policy: {self.lr_policy}")
        return lines

"""Section `model`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cyclegan.params.derived import unet_depth
from cyclegan.params.section import (
    Fraction,
    Norm,
    Positive,
    Section,
    Size,
    Upsample,
    impossible,
)


class Model(Section):
    """The networks. Both generators share one form, and so do both discriminators."""

    generator: Literal["resnet", "unet", "unet_full"] = Field(
        default="resnet",
        description="resnet (Johnson et al. 2016, the paper's), unet (pix2pix's), or unet_full (a U-Net with one more "
        "level at the image's full size).",
    )
    base_filters: int = Field(
        default=64, ge=1, le=1024, description="Filters of the generator's first layer. Paper: 64."
    )
    blocks: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = Field(
        default="auto", description="Residual blocks of the resnet. auto: the paper's 6 below 256 pixels, else 9."
    )
    skip: Literal["add", "concat"] = Field(
        default="add", description="How a residual block joins its input: add (paper) or concat (tutorial)."
    )
    padding: Literal["reflect", "same"] = Field(
        default="reflect", description="reflect (paper) or same (zeros, tutorial)."
    )
    upsample: Upsample = Field(
        default="transpose",
        description="transpose (paper), resize (no checkerboard; Odena et al. 2016), or antialias (Zhang 2019, as in "
        "CUT).",
    )
    halving: Literal["same", "centered"] = Field(
        default="same",
        description="Zeros around the resnet's strided convolutions: same (at the end only, TensorFlow's) or centered "
        "(at both ends, the reference's).",
    )
    norm: Norm = Field(
        default="instance",
        description="Normalization of the generators: instance (paper), instance_contrib (keras-contrib's formula, for "
        "the tutorial's weights), batch, or none.",
    )
    output_norm: bool = Field(default=False, description="Normalize before the last tanh, as the tutorial does.")
    residual_output: bool = Field(
        default=False, description="Predict the change of the input instead of the output; for domains that are close."
    )
    dropout: Fraction = Field(default=0.0, description="Share of activations dropped in each residual block, 0…1.")
    discriminator: Literal["patch", "pixel", "tutorial"] = Field(
        default="patch",
        description="patch (PatchGAN), pixel, or tutorial (PatchGAN with one more layer of 512 filters).",
    )
    patch_layers: int = Field(
        default=3,
        ge=1,
        le=5,
        description="Strided layers of the PatchGAN, 1…5: receptive field of 16, 34, 70 (paper), 142 or 286 pixels.",
    )
    discriminator_filters: int = Field(
        default=64, ge=1, le=1024, description="Filters of the discriminator's first layer. Paper: 64."
    )
    discriminator_norm: Norm = Field(default="instance", description="Normalization of the discriminators, as norm.")
    spectral_norm: bool = Field(
        default=False, description="Spectral normalization of the discriminators (Miyato et al. 2018)."
    )
    init: Literal["normal", "xavier", "kaiming", "orthogonal"] = Field(
        default="normal", description="Initialization of the weights. Paper: normal."
    )
    init_gain: Positive = Field(
        default=0.02,
        description="Standard deviation for normal (paper: 0.02); a factor on the usual scale for the others.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.generator != "resnet" and self.upsample == "antialias":
            raise impossible("model.upsample: antialias needs model.generator: resnet; use resize or transpose")
        if self.output_norm and self.norm == "none":
            raise impossible("model.output_norm needs a normalization, but model.norm is none; set it to false")
        return self

    @property
    def without_effect(self) -> list[str]:
        """A line for each key that is set but not read."""
        lines = []
        if self.generator != "resnet":
            # A U-Net pads with zeros, whatever `padding` says.
            lines += self.unread("model", ("blocks", "skip", "halving"), f"model.generator: {self.generator}")
        elif self.upsample == "antialias":
            lines += self.unread("model", ("halving",), "model.upsample: antialias")
        if self.discriminator != "patch":
            lines += self.unread("model", ("patch_layers",), f"model.discriminator: {self.discriminator}")
        return lines

    def size_multiple(self, size: Size) -> int:
        """The generator's input sides must be multiples of this."""
        return 2 ** unet_depth(size) if self.generator != "resnet" else 4

    def objection_to(self, size: Size) -> str | None:
        """Why these networks cannot be trained on images of this size, with the remedy; None where they can."""
        multiple = self.size_multiple(size)
        if any(side % multiple for side in size):
            lower = [max(multiple, side // multiple * multiple) for side in size]
            return f": each side must be a multiple of {multiple} for model.generator: {self.generator}; use {lower}"
        if self.generator != "resnet" and unet_depth(size) < 4:
            return f": model.generator: {self.generator} halves its input at least 4 times; use multiples of 16"
        if self.generator == "resnet" and min(size) < 8:
            # Of one pixel a normalization makes a constant, and there is nothing to mirror it from.
            return " is too small for model.generator: resnet, which works at a quarter of it; use at least 8"
        if self.discriminator == "patch" and min(size) < 3 * 2**self.patch_layers:
            # Its last two convolutions, 4×4 and padded by one, take one pixel each.
            return (
                f" is too small for model.discriminator: patch with {self.patch_layers} layers; "
                f"use at least {3 * 2**self.patch_layers} or fewer model.patch_layers"
            )
        if self.discriminator == "tutorial" and min(size) < 17:
            # After four halvings its normalization must find more than one pixel, of which it would make a constant.
            return " is too small for model.discriminator: tutorial, which halves it four times; use at least 17"
        return None

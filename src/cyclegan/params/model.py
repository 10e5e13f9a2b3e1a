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
    """The networks, the same for both directions."""

    generator: Literal["resnet", "unet", "unet_full"] = Field(
        default="resnet",
        description="Generator: resnet (paper), unet (pix2pix), or unet_full (U-Net with one more level at full size).",
    )
    base_filters: int = Field(
        default=64, ge=1, le=1024, description="Filters of the generator's first layer (paper: 64)."
    )
    blocks: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = Field(
        default="auto",
        description="Residual blocks of the resnet: a number, or auto (paper: 6 below 256 pixels, else 9).",
    )
    skip: Literal["add", "concat"] = Field(
        default="add", description="How a residual block joins its input: add (paper) or concat (Keras tutorial)."
    )
    padding: Literal["reflect", "same"] = Field(
        default="reflect", description="Padding of the resnet: reflect (paper) or same (zeros)."
    )
    upsample: Upsample = Field(
        default="transpose",
        description="Upsampling: transpose (paper), resize (no checkerboard), or antialias (Zhang 2019, as in CUT).",
    )
    halving: Literal["same", "centered"] = Field(
        default="same",
        description="Zero padding of the resnet's strided convolutions: same (at the end, as in TensorFlow) or "
        "centered (at both ends, as in the reference implementation).",
    )
    norm: Norm = Field(
        default="instance",
        description="Normalization of the generators: instance (paper), instance_contrib (keras-contrib), batch or "
        "none.",
    )
    output_norm: bool = Field(default=False, description="Normalize before the last tanh, as the Keras tutorial does.")
    residual_output: bool = Field(
        default=False, description="Predict the difference between output and input, for similar domains."
    )
    dropout: Fraction = Field(default=0.0, description="Share of activations dropped in each residual block, 0…1.")
    discriminator: Literal["patch", "pixel", "tutorial"] = Field(
        default="patch",
        description="Discriminator: patch (PatchGAN, paper), pixel, or tutorial (PatchGAN with one more layer).",
    )
    patch_layers: int = Field(
        default=3,
        ge=1,
        le=5,
        description="Strided layers of patch, 1…5: receptive field of 16, 34, 70 (paper), 142 or 286 pixels.",
    )
    discriminator_filters: int = Field(
        default=64, ge=1, le=1024, description="Filters of the discriminator's first layer (paper: 64)."
    )
    discriminator_norm: Norm = Field(
        default="instance", description="Normalization of the discriminators, with the choices of norm."
    )
    spectral_norm: bool = Field(
        default=False, description="Spectral normalization of the discriminators (Miyato et al. 2018)."
    )
    init: Literal["normal", "xavier", "kaiming", "orthogonal"] = Field(
        default="normal", description="Initialization of the weights: normal (paper), xavier, kaiming or orthogonal."
    )
    init_gain: Positive = Field(
        default=0.02,
        description="Standard deviation of normal (paper: 0.02), or a factor on the scale of the others.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.generator != "resnet" and self.upsample == "antialias":
            raise impossible("model.upsample: antialias needs model.generator: resnet; set it to resize or transpose")
        if self.output_norm and self.norm == "none":
            raise impossible("model.output_norm: true needs a normalization, but model.norm is none; set it to false")
        return self

    @property
    def without_effect(self) -> list[str]:
        """Warnings of keys that are set but not read, one line for each."""
        lines = []
        if self.generator != "resnet":
            # `padding` is left out: a U-Net always pads with zeros, which the value `same` describes.
            lines += self.unread("model", ("blocks", "skip", "halving"), f"model.generator: {self.generator}")
        elif self.upsample == "antialias":
            lines += self.unread("model", ("halving",), "model.upsample: antialias")
        if self.discriminator != "patch":
            lines += self.unread("model", ("patch_layers",), f"model.discriminator: {self.discriminator}")
        return lines

    def size_multiple(self, size: Size) -> int:
        """The number that both sides of the generator's input must be multiples of."""
        return 2 ** unet_depth(size) if self.generator != "resnet" else 4

    def objection_to(self, size: Size) -> str | None:
        """Check that these networks can be trained on images of this size.

        Returns:
            None, or the end of a message that starts with a key: what is wrong, and the remedy.
        """
        multiple = self.size_multiple(size)
        if any(side % multiple for side in size):
            lower = [max(multiple, side // multiple * multiple) for side in size]
            return f": each side must be a multiple of {multiple} for model.generator: {self.generator}; use {lower}"
        if self.generator != "resnet" and unet_depth(size) < 4:
            return f": model.generator: {self.generator} halves its input at least 4 times; use a multiple of 16"
        if self.generator == "resnet" and min(size) < 8:
            # At a quarter of this size, one pixel would be left. It cannot be normalized or mirrored.
            return ": too small for model.generator: resnet, which works at a quarter of it; use at least 8"
        if self.discriminator == "patch" and min(size) < 3 * 2**self.patch_layers:
            # The last two convolutions, 4×4 and padded by one, remove one pixel each.
            return (
                f": too small for model.discriminator: patch with {self.patch_layers} layers; "
                f"use at least {3 * 2**self.patch_layers} or fewer model.patch_layers"
            )
        if self.discriminator == "tutorial" and min(size) < 17:
            # After four halvings, the normalization needs more than one pixel.
            return ": too small for model.discriminator: tutorial, which halves it four times; use at least 17"
        return None

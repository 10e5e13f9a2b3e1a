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

    generator: Literal["resnet", "unet", "unet_full"]
    base_filters: Annotated[int, Field(ge=1, le=1024)]
    blocks: Literal["auto"] | Annotated[int, Field(ge=0, le=64)]
    skip: Literal["add", "concat"]
    padding: Literal["reflect", "same"]
    upsample: Upsample
    norm: Norm
    output_norm: bool
    residual_output: bool
    dropout: Fraction
    discriminator: Literal["patch", "pixel", "tutorial"]
    patch_layers: Annotated[int, Field(ge=1, le=5)]
    discriminator_filters: Annotated[int, Field(ge=1, le=1024)]
    discriminator_norm: Norm
    spectral_norm: bool
    init: Literal["normal", "xavier", "kaiming", "orthogonal"]
    init_gain: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.generator != "resnet":
            for key, only in (("blocks", "auto"), ("skip", "add"), ("padding", "same")):
                if getattr(self, key) != only:
                    raise impossible(
                        f"model.{key} has no effect with model.generator: {self.generator}; set it to {only!r}"
                    )
            if self.upsample == "antialias":
                raise impossible("model.upsample: antialias needs model.generator: resnet; use resize or transpose")
        if self.discriminator != "patch" and self.patch_layers != 3:
            raise impossible(
                f"model.patch_layers is only read with model.discriminator: patch, not {self.discriminator!r}; "
                "set it to 3"
            )
        if self.output_norm and self.norm == "none":
            raise impossible("model.output_norm needs a normalisation, but model.norm is none; set it to false")
        return self

    def size_multiple(self, size: Size) -> int:
        """The generator's input sides must be multiples of this."""
        return 2 ** unet_depth(size) if self.generator != "resnet" else 4

    def objection_to(self, size: Size) -> str | None:
        """Why these networks cannot be trained on pictures of this size, with the remedy; None where they can."""
        multiple = self.size_multiple(size)
        if any(side % multiple for side in size):
            lower = [max(multiple, side // multiple * multiple) for side in size]
            return f": each side must be a multiple of {multiple} for model.generator: {self.generator}; use {lower}"
        if self.generator != "resnet" and unet_depth(size) < 4:
            return f": model.generator: {self.generator} halves its input at least 4 times; use multiples of 16"
        if self.generator == "resnet" and min(size) < 8:
            # Of one pixel a normalisation makes a constant, and there is nothing to mirror it from.
            return " is too small for model.generator: resnet, which works at a quarter of it; use at least 8"
        if self.discriminator == "patch" and min(size) < 3 * 2**self.patch_layers:
            # Its last two convolutions, 4×4 and padded by one, take one pixel each.
            return (
                f" is too small for model.discriminator: patch with {self.patch_layers} layers; "
                f"use at least {3 * 2**self.patch_layers} or fewer model.patch_layers"
            )
        if self.discriminator == "tutorial" and min(size) < 17:
            # After four halvings its normalisation must find more than one pixel, of which it would make a constant.
            return " is too small for model.discriminator: tutorial, which halves it four times; use at least 17"
        return None

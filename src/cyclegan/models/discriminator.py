"""Discriminators: PatchGANs, which judge overlapping patches, and one that judges single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as keras_layers

from cyclegan.models.initializers import SeededInitializers
from cyclegan.models.layers import LeakyReLU, SpectralConv2D
from cyclegan.models.normalization import normalization, output_dtype


def build_discriminator(
    channels: int = 3,
    *,
    architecture: str = "patch",
    layers: int = 3,
    base_filters: int = 64,
    norm: str = "instance",
    spectral_norm: bool = False,
    init: str = "normal",
    init_gain: float = 0.02,
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Build a discriminator for images of any size.

    The input is `(batch, height, width, channels)` in [-1, 1]. The output is one unbounded score per patch, `(batch,
    rows, columns, 1)`, float32 under mixed precision too. A high score means real.

    Args:
        channels: channels of the images.
        architecture: one of
            - `patch`: the reference implementation's `NLayerDiscriminator`. With the defaults its receptive field is
              70×70 pixels (Zhu et al. 2017, appendix 7.2: C64-C128-C256-C512), with 2.8 million parameters.
            - `tutorial`: the Keras tutorial's, with one more C512 and uneven zero padding.
            - `pixel`: the reference's `PixelDiscriminator` of 1×1 convolutions.
        layers: number of halvings of `patch`; the receptive fields for 1 to 5 are 16, 34, 70, 142, 286 pixels. The
            other architectures ignore it.
        base_filters: filters of the first layer; doubles with each layer up to eight times.
        norm: see `normalization.normalization`; the first and the last layer have no normalization.
        spectral_norm: whether to divide each kernel by its largest singular value, see `layers.SpectralConv2D`.
        init, init_gain, seed: see `initializers.SeededInitializers`.
        name: name of the model.

    Raises:
        ValueError: a choice is unknown, or `layers` is below 1.

    Example:

    >>> from cyclegan.models import build_discriminator
    >>> build_discriminator(base_filters=8).output_shape
    (None, None, None, 1)
    """
    makers = {"patch": _patch, "tutorial": _tutorial, "pixel": _pixel}
    if architecture not in makers:
        raise ValueError(f"architecture = {architecture!r}: must be one of {', '.join(makers)}")
    if layers < 1:
        raise ValueError(f"layers = {layers}: must be at least 1")
    parts = _Parts(norm, spectral_norm, SeededInitializers(init, init_gain, seed))
    image = keras.Input((None, None, channels), name="image")
    return keras.Model(image, makers[architecture](image, parts, base_filters, layers), name=name)


@dataclass(frozen=True)
class _Parts:
    """The layers of all architectures in the chosen variants."""

    norm: str
    spectral_norm: bool
    initializers: SeededInitializers

    def conv(self, x: Any, filters: int, size: int, name: str, *, normed: bool = False, **options: Any) -> Any:
        """Apply a convolution; `normed` if a normalization follows."""
        options["kernel_initializer"] = self.initializers()
        # Batch normalization has an offset, so the convolution before it needs no bias (as in the reference).
        options["use_bias"] = not (normed and self.norm == "batch")
        if self.spectral_norm:
            seed = self.initializers.next_seed()
            options["vector_initializer"] = keras.initializers.RandomNormal(seed=seed)
        layer = SpectralConv2D if self.spectral_norm else keras_layers.Conv2D
        return layer(filters, size, name=f"{name}_conv", **options)(x)

    def layer(self, x: Any, filters: int, size: int, name: str, *, normed: bool = True, **options: Any) -> Any:
        """Apply a convolution, a normalization if `normed`, and a leaky ReLU."""
        x = self.conv(x, filters, size, name, normed=normed, **options)
        norm = normalization(self.norm, f"{name}_norm") if normed else None
        if norm is not None:
            x = norm(x)
        return LeakyReLU(0.2, name=f"{name}_relu")(x)

    def scores(self, x: Any, size: int, **options: Any) -> Any:
        return self.conv(x, 1, size, "score", dtype=output_dtype(), **options)


def _patch(x: Any, parts: _Parts, base_filters: int, layers: int) -> Any:
    # Pad one zero on each side, as PyTorch does; `same` would pad unevenly at stride 1.
    for number in range(1, layers + 2):
        filters = base_filters * min(2 ** (number - 1), 8)
        strides = 2 if number <= layers else 1
        x = keras_layers.ZeroPadding2D(1, name=f"layer{number}_pad")(x)
        x = parts.layer(x, filters, 4, f"layer{number}", normed=number > 1, strides=strides)
    x = keras_layers.ZeroPadding2D(1, name="score_pad")(x)
    return parts.scores(x, 4)


def _tutorial(x: Any, parts: _Parts, base_filters: int, layers: int) -> Any:
    for number, (factor, strides) in enumerate(((1, 2), (2, 2), (4, 2), (8, 2), (8, 1)), start=1):
        name = f"layer{number}"
        x = parts.layer(x, factor * base_filters, 4, name, normed=number > 1, strides=strides, padding="same")
    return parts.scores(x, 4, padding="same")


def _pixel(x: Any, parts: _Parts, base_filters: int, layers: int) -> Any:
    x = parts.layer(x, base_filters, 1, "layer1", normed=False)
    x = parts.layer(x, 2 * base_filters, 1, "layer2")
    return parts.scores(x, 1)

"""Generators: the paper's residual network and the U-Net.

Architectures:

- `resnet`: the paper's (Zhu et al. 2017, appendix 7.2). The defaults are its network for 256×256: c7s1-64, d128, d256,
  nine R256, u128, u64, c7s1-3; 11.4 million parameters.
- `unet`: the reference implementation's `UnetGenerator`: 4×4 convolutions with stride 2 and skip connections; filters
  double up to 8 times those of the first layer. No skip connection has the full size.
- `unet_full`: `unet` with a skip connection at full size, from a 3×3 convolution before the first halving.

How the height and width double (`upsample`):

- `transpose`: transposed convolutions, as in the reference.
- `resize`: bilinear, then a convolution; avoids checkerboards (Odena et al. 2016).
- `antialias`: `resize`, and halving by a blur after an unstrided convolution, as in CUT; `resnet` only.

Where the zeros around a 3×3 convolution of stride 2 lie (`halving`, `resnet` only; 4×4 ones have no choice):

- `same`: Keras' padding; on even sides one zero at the end and none at the start.
- `centered`: one zero at each end, as in the reference; transposed convolutions likewise.

Example:

>>> from cyclegan.models import build_generator
>>> generator = build_generator(base_filters=8, blocks=2)
>>> generator.output_shape
(None, None, None, 3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from cyclegan.models.initializers import SeededInitializers
from cyclegan.models.layers import (
    AddChange,
    BilinearUpsampling2D,
    BlurPooling2D,
    LeakyReLU,
    ReflectionPadding2D,
)
from cyclegan.models.normalization import normalization, output_dtype

# Scale of the last layer's initial weights with `residual_output`, so that the untrained generator changes its input
# little. With 0, no other layer would have a gradient in the first step.
_FIRST_CHANGE = 0.05


def build_generator(
    channels_in: int = 3,
    channels_out: int = 3,
    *,
    architecture: str = "resnet",
    base_filters: int = 64,
    blocks: int = 9,
    skip: str = "add",
    padding: str = "reflect",
    upsample: str = "transpose",
    norm: str = "instance",
    output_norm: bool = False,
    residual_output: bool = False,
    dropout: float = 0.0,
    depth: int = 8,
    halving: str = "same",
    init: str = "normal",
    init_gain: float = 0.02,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Build a generator for images of any size whose sides are multiples of `size_multiple(generator)`.

    The input is `(batch, height, width, channels_in)` in [-1, 1]. The output is `(batch, height, width, channels_out)`
    in [-1, 1], float32 under mixed precision too.

    Args:
        channels_in, channels_out: channels of the input and output images.
        architecture, upsample, halving: see this module's docstring.
        base_filters: width of the first layer.
        blocks: number of residual blocks (`resnet` only).
        skip: join of a residual block and its input (`resnet` only): `add`, or the Keras tutorial's `concat`.
        padding: padding of the 7×7 and the residual blocks' convolutions (`resnet` only): `reflect`, or `same` (zeros).
        norm: see `normalization.normalization`.
        output_norm: whether the last convolution has a normalization too, as in the tutorial.
        residual_output: whether to compute a change of the input, see `layers.AddChange`; needs equal channels.
        dropout: rate of dropout; the reference uses 0.5.
        depth: number of halvings, at least 3 (U-Nets only).
        init, init_gain, seed: see `initializers.SeededInitializers`.
        name: name of the model.

    Raises:
        ValueError: a choice is unknown, or two choices exclude each other.
    """
    _check_architecture(architecture, skip, padding, upsample, halving, depth)
    _check_output(channels_in, channels_out, norm, output_norm, residual_output)
    parts = _Parts(norm, padding, upsample, halving, dropout, SeededInitializers(init, init_gain, seed))
    output = _Output(channels_out, output_norm, residual_output)
    image = keras.Input((None, None, channels_in), name="image")
    if architecture == "resnet":
        x = _resnet(image, parts, output, base_filters, blocks, skip)
    else:
        x = _unet(image, parts, output, base_filters, depth, full_size=architecture == "unet_full")
    if residual_output:
        x = AddChange(dtype=output_dtype(), name="output")([x, image])
    else:
        x = layers.Activation("tanh", dtype=output_dtype(), name="output")(x)
    return keras.Model(image, x, name=name)


def _check_architecture(architecture: str, skip: str, padding: str, upsample: str, halving: str, depth: int) -> None:
    """Refuse an unknown choice, and one that a U-Net does not have."""
    _check("architecture", architecture, ("resnet", "unet", "unet_full"))
    _check("skip", skip, ("add", "concat"))
    _check("padding", padding, ("reflect", "same"))
    _check("upsample", upsample, ("transpose", "resize", "antialias"))
    _check("halving", halving, ("same", "centered"))
    if architecture == "resnet":
        return
    if skip != "add" or upsample == "antialias":
        raise ValueError(f"architecture = {architecture!r}: has neither skip = 'concat' nor upsample = 'antialias'")
    if depth < 3:
        raise ValueError(f"depth = {depth}: must be at least 3 for a U-Net")


def _check_output(channels_in: int, channels_out: int, norm: str, output_norm: bool, residual_output: bool) -> None:
    """Check that channels and normalization allow this output."""
    if residual_output and channels_in != channels_out:
        raise ValueError(
            f"residual_output = True: needs equal channels, but channels_in = {channels_in} and "
            f"channels_out = {channels_out}"
        )
    if output_norm and norm == "none":
        raise ValueError("output_norm = True: needs a normalization, but norm = 'none'")


def _check(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{key} = {value!r}: must be one of {', '.join(choices)}")


@dataclass(frozen=True)
class _Output:
    """The form of the last convolution."""

    channels: int
    norm: bool
    residual: bool


@dataclass(frozen=True)
class _Parts:
    """The layers of both architectures in the chosen variants."""

    norm: str
    padding: str
    upsample: str
    halving: str
    dropout: float
    initializers: SeededInitializers

    def conv(
        self,
        x: Any,
        filters: int,
        size: int,
        name: str,
        *,
        strides: int = 1,
        padding: str = "same",
        normed: bool = True,
        scale: float = 1.0,
    ) -> Any:
        """Apply a padded convolution; `normed` if a normalization follows."""
        if padding == "reflect":
            x = ReflectionPadding2D(size // 2, name=f"{name}_pad")(x)
        elif padding == "centered":
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding="same" if padding == "same" else "valid",
            use_bias=self._needs_bias(normed),
            kernel_initializer=self.initializers(scale),
            name=f"{name}_conv",
        )(x)

    def halve(self, x: Any, filters: int, name: str) -> Any:
        """Halve height and width, then apply normalization and ReLU (`resnet`)."""
        if self.upsample == "antialias":
            x = self.rectified(self.conv(x, filters, 3, name), name)
            return BlurPooling2D(name=f"{name}_blur")(x)
        return self.rectified(self.conv(x, filters, 3, name, strides=2, padding=self.halving), name)

    def double(self, x: Any, filters: int, size: int, name: str, *, normed: bool = True, scale: float = 1.0) -> Any:
        """Double height and width; `size` is the kernel size of a transposed convolution."""
        if self.upsample == "transpose":
            centered = self.halving == "centered" and size == 3
            x = layers.Conv2DTranspose(
                filters,
                size,
                2,
                padding="valid" if centered else "same",
                use_bias=self._needs_bias(normed),
                kernel_initializer=self.initializers(scale),
                name=f"{name}_conv",
            )(x)
            # The output is one row and column too large, which lie at the start.
            return layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_crop")(x) if centered else x
        x = BilinearUpsampling2D(name=f"{name}_resize")(x)
        return self.conv(x, filters, 3, name, normed=normed, scale=scale)

    def normalized(self, x: Any, name: str, gamma: float = 1.0) -> Any:
        layer = normalization(self.norm, f"{name}_norm", keras.initializers.Constant(gamma))
        return x if layer is None else layer(x)

    def rectified(self, x: Any, name: str) -> Any:
        return layers.ReLU(name=f"{name}_relu")(self.normalized(x, name))

    def dropped(self, x: Any, name: str) -> Any:
        if self.dropout == 0:
            return x
        return layers.Dropout(self.dropout, seed=self.initializers.next_seed(), name=f"{name}_dropout")(x)

    def finish(self, x: Any, output: _Output, conv: Callable[..., Any]) -> Any:
        """Apply the last convolution, `conv(x, normed=, scale=)`, and its normalization if there is one."""
        small = _FIRST_CHANGE if output.residual else 1.0
        if output.norm:
            return self.normalized(conv(x, normed=True, scale=1.0), "head", gamma=small)
        return conv(x, normed=False, scale=small)

    def _needs_bias(self, normed: bool) -> bool:
        # Batch normalization has an offset, so the convolution before it needs no bias (as in the reference).
        return not (normed and self.norm == "batch")


def _resnet(x: Any, parts: _Parts, output: _Output, base_filters: int, blocks: int, skip: str) -> Any:
    """Two halvings, residual blocks and two doublings between two 7×7 convolutions."""
    x = parts.rectified(parts.conv(x, base_filters, 7, "stem", padding=parts.padding), "stem")
    x = parts.halve(x, 2 * base_filters, "down1")
    x = parts.halve(x, 4 * base_filters, "down2")
    for number in range(1, blocks + 1):
        x = _residual_block(x, parts, 4 * base_filters, skip, f"block{number}")
    x = parts.rectified(parts.double(x, 2 * base_filters, 3, "up1"), "up1")
    x = parts.rectified(parts.double(x, base_filters, 3, "up2"), "up2")

    def head(x: Any, normed: bool, scale: float) -> Any:
        return parts.conv(x, output.channels, 7, "head", padding=parts.padding, normed=normed, scale=scale)

    return parts.finish(x, output, head)


def _residual_block(x: Any, parts: _Parts, filters: int, skip: str, name: str) -> Any:
    """Two convolutions and a skip connection; with `concat` each block adds `filters` channels."""
    y = parts.rectified(parts.conv(x, filters, 3, f"{name}a", padding=parts.padding), f"{name}a")
    y = parts.dropped(y, name)
    y = parts.normalized(parts.conv(y, filters, 3, f"{name}b", padding=parts.padding), f"{name}b")
    join = layers.Add if skip == "add" else layers.Concatenate
    return join(name=f"{name}_{skip}")([y, x])


def _unet(x: Any, parts: _Parts, output: _Output, base_filters: int, depth: int, *, full_size: bool) -> Any:
    """`depth` halvings and doublings with skip connections at all sizes but the full one.

    The outermost and innermost halvings have no normalization: at 1×1 pixel an instance norm would return a constant.
    With `full_size` the full size has a skip connection too, from a convolution before the first halving.
    """
    widths = [base_filters * min(2**level, 8) for level in range(depth)]
    width_above = [max(1, base_filters // 2), *widths]
    skips = []
    if full_size:
        x = parts.conv(x, width_above[0], 3, "stem", normed=False)
    for level, width in enumerate(widths, start=1):
        name = f"down{level}"
        if level > 1 or full_size:
            skips.append(x)
            x = LeakyReLU(0.2, name=f"{name}_relu")(x)
        normed = 1 < level < depth
        x = parts.conv(x, width, 4, name, strides=2, normed=normed)
        if normed:
            x = parts.normalized(x, name)

    # The reference has dropout in the blocks between the innermost one and the outer four; here at least one has it.
    dropped = range(depth - 1, depth - 1 - max(1, depth - 5), -1)
    for level in range(depth, 0 if full_size else 1, -1):
        name = f"up{level}"
        x = layers.ReLU(name=f"{name}_relu")(x)
        x = parts.normalized(parts.double(x, width_above[level - 1], 4, name), name)
        if level in dropped:
            x = parts.dropped(x, name)
        x = layers.Concatenate(name=f"{name}_skip")([skips.pop(), x])
    x = layers.ReLU(name="head_relu")(x)

    def head(x: Any, normed: bool, scale: float) -> Any:
        if full_size:
            return parts.conv(x, output.channels, 3, "head", normed=normed, scale=scale)
        return parts.double(x, output.channels, 4, "head", normed=normed, scale=scale)

    return parts.finish(x, output, head)

"""Networks of the reference implementation, junyanz/pytorch-CycleGAN-and-pix2pix, from its `.pth` files.

Which network a file holds follows from the names and shapes of its weights: `ResnetGenerator`, `UnetGenerator`,
`NLayerDiscriminator` or `PixelDiscriminator`, each with instance, batch or no normalization; or the default generator
of taesungp/contrastive-unpaired-translation (CUT), which halves and doubles by fixed blurs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.models.legacy.pytorch_file import StateDict, read_state_dict
from cyclegan.models.legacy.pytorch_pickle import UnreadableError
from cyclegan.system.errors import UserError

# What DataParallel and torch.compile put before every name.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# CUT's blurs by their size, each way: before halving, and between the pixels when doubling.
_BLURS = {(3, 3): (0.25, 0.5, 0.25), (4, 4): (0.25, 0.75, 0.75, 0.25)}

ONLY_REFERENCE = "expected a generator or discriminator of junyanz/pytorch-CycleGAN-and-pix2pix"


@dataclass(frozen=True)
class ImportedNetwork:
    """A network with the weights of a file.

    Attributes:
        kind: what it is.
        network: for float images in [-1, 1].
        options: what the weights imply, by the names that `build_generator` or `build_discriminator` uses.
    """

    kind: Literal["generator", "discriminator"]
    network: keras.Model
    options: dict[str, Any]


@dataclass(frozen=True)
class _Layer:
    """One convolution, and the normalization after it.

    Attributes:
        name: our name for both, without `_conv` and `_norm`.
        conv, norm: PyTorch's names; `norm` is None where no normalization follows.
        kernel: PyTorch's shape: (out, in, height, width), of a transposed convolution (in, out, height, width).
    """

    name: str
    conv: str
    norm: str | None
    kernel: tuple[int, ...]


@dataclass(frozen=True)
class _Plan:
    """Which network a file holds, and where each of its weights belongs."""

    kind: Literal["generator", "discriminator"]
    options: dict[str, Any]
    layers: list[_Layer] = field(default_factory=list)

    def add(self, name: str, conv: str, norm: str | None, *kernel: int) -> None:
        self.layers.append(_Layer(name, conv, norm, kernel))


class _Kernels(dict[str, tuple[int, ...]]):
    """The shapes of all kernels of a file, by PyTorch's name of the convolution. A missing one is refused."""

    def __missing__(self, name: str) -> tuple[int, ...]:
        raise UnreadableError(f"lacks {name}.weight; {ONLY_REFERENCE}")


def load_pytorch_network(path: Path) -> ImportedNetwork:
    """Read a generator or discriminator of the reference implementation from its state dict.

    The file is data: nothing in it is executed, unpickled or imported. The network computes what PyTorch's does after
    `net.eval()`, up to rounding in float32, and takes images of any size.

    Raises:
        UserError: the file is no PyTorch file, is corrupt, or holds something else than the weights of one of the
            reference's networks.
    """
    try:
        return _convert(read_state_dict(path))
    except UnreadableError as reason:
        raise UserError(f"{path}: {reason}") from None


def _convert(state: StateDict) -> ImportedNetwork:
    # Find out which network it is.
    state, has_batch_norm = _without_leftovers(state)
    _drop_blurs(state)
    kernels = _Kernels({name.removesuffix(".weight"): array.shape for name, array in state.items() if array.ndim == 4})
    plan = _plan(kernels)
    # Check the shapes first: a file can only ask for a network as large as itself.
    for layer in plan.layers:
        if kernels[layer.conv] != layer.kernel:
            raise _other_shape(f"{layer.conv}.weight", kernels[layer.conv], layer.kernel)
    norm = "batch" if has_batch_norm else "instance" if _has_bias_before_norm(plan, state) else "none"
    # Build it, and move the weights.
    options = {**plan.options, "norm": norm}
    network = (build_generator if plan.kind == "generator" else build_discriminator)(**options)
    for layer in plan.layers:
        _move(layer, state, network, norm)
    if state:
        names = ", ".join(repr(name[:80]) for name in list(state)[:3])
        raise UnreadableError(f"holds {len(state)} unknown weights ({names} …); {ONLY_REFERENCE}")
    return ImportedNetwork(plan.kind, network, options)


def _without_leftovers(state: StateDict) -> tuple[StateDict, bool]:
    """The weights by their plain names, and whether there is batch normalization.

    Files of torch before 0.4 hold statistics of instance normalizations, which were never used. A batch normalization
    has a weight beside them.
    """
    plain = {_WRAPPERS.sub("", name): array for name, array in state.items()}
    if len(plain) != len(state):
        raise UnreadableError(f"holds the weights of several networks; {ONLY_REFERENCE}")
    has_batch_norm = any(
        f"{name.removesuffix('.running_var')}.weight" in plain for name in plain if name.endswith(".running_var")
    )
    if not has_batch_norm:
        plain = {name: array for name, array in plain.items() if name.rpartition(".")[2] not in _STATISTICS}
    return plain, has_batch_norm


def _drop_blurs(state: StateDict) -> None:
    """Take CUT's blurs out of the state dict: our layers have them built in."""
    for name in [name for name in state if name.endswith(".filt")]:
        blur = state.pop(name)
        weights = _BLURS.get(blur.shape[2:])
        if weights is None or not np.allclose(blur, np.outer(weights, weights)):
            raise UnreadableError(f"{name[:80]!r} is another blur than CUT's; {ONLY_REFERENCE}")


def _has_bias_before_norm(plan: _Plan, state: StateDict) -> bool:
    """Whether there is instance normalization: it has no weights, but only before it the reference keeps the bias."""
    return any(f"{layer.conv}.bias" in state for layer in plan.layers if layer.norm)


def _plan(kernels: _Kernels) -> _Plan:
    if "net.0" in kernels:
        return _pixel_discriminator(kernels)
    if "model.model.0" in kernels:
        return _unet(kernels)
    if "model.0" in kernels:
        return _patch_discriminator(kernels)
    if "model.1" in kernels:
        return _resnet(kernels)
    raise UnreadableError(f"holds another network; {ONLY_REFERENCE}")


def _resnet(kernels: _Kernels) -> _Plan:
    width, channels_in = kernels["model.1"][:2]
    # In CUT's a blur follows each halving and precedes each doubling, which are no strided convolutions.
    is_cut = "model.8" in kernels
    down2, first = (8, 12) if is_cut else (7, 10)
    blocks = _length(f"model.{first + number}.conv_block.1" in kernels for number in count())
    end = first + blocks
    up1, up2, head = (end + 1, end + 5, end + 9) if is_cut else (end, end + 3, end + 7)
    # Dropout takes a place between the two convolutions of a block.
    has_dropout = f"model.{first}.conv_block.6" in kernels
    second = 6 if has_dropout else 5
    channels_out = kernels[f"model.{head}"][0]
    options = {
        "architecture": "resnet",
        "channels_in": channels_in,
        "channels_out": channels_out,
        "base_filters": width,
        "blocks": blocks,
        "dropout": 0.5 if has_dropout else 0.0,
        **({"upsample": "antialias"} if is_cut else {"halving": "centered"}),
    }
    plan = _Plan("generator", options)

    def add_up(name: str, at: int, inner: int) -> None:
        outer = inner // 2
        # The kernel of a transposed convolution has its input first.
        plan.add(name, f"model.{at}", f"model.{at + 1}", *((outer, inner) if is_cut else (inner, outer)), 3, 3)

    plan.add("stem", "model.1", "model.2", width, channels_in, 7, 7)
    plan.add("down1", "model.4", "model.5", 2 * width, width, 3, 3)
    plan.add("down2", f"model.{down2}", f"model.{down2 + 1}", 4 * width, 2 * width, 3, 3)
    for number in range(blocks):
        block, inner = f"model.{first + number}.conv_block", 4 * width
        plan.add(f"block{number + 1}a", f"{block}.1", f"{block}.2", inner, inner, 3, 3)
        plan.add(f"block{number + 1}b", f"{block}.{second}", f"{block}.{second + 1}", inner, inner, 3, 3)
    add_up("up1", up1, 4 * width)
    add_up("up2", up2, 2 * width)
    plan.add("head", f"model.{head}", None, channels_out, width, 7, 7)
    return plan


def _unet(kernels: _Kernels) -> _Plan:
    """Each level lies inside the sequence of the one around it: `.model.1` in the outermost, `.model.3` in others."""
    width, channels_in = kernels["model.model.0"][:2]
    channels_out = kernels["model.model.3"][1]
    levels = ["model.model.1.model"]
    while f"{levels[-1]}.3.model.1" in kernels:
        levels.append(f"{levels[-1]}.3.model")
    depth = 1 + len(levels)
    if depth < 3:
        raise UnreadableError(f"holds a U-Net of {depth} levels; {ONLY_REFERENCE}")
    plan = _Plan(
        "generator",
        {
            "architecture": "unet",
            "channels_in": channels_in,
            "channels_out": channels_out,
            "base_filters": width,
            "depth": depth,
        },
    )
    widths = [width * min(2**level, 8) for level in range(depth)]
    plan.add("down1", "model.model.0", None, width, channels_in, 4, 4)
    plan.add("head", "model.model.3", None, 2 * width, channels_out, 4, 4)
    for number, level in enumerate(levels, start=2):
        outer, inner = widths[number - 2 : number]
        if number < depth:
            plan.add(f"down{number}", f"{level}.1", f"{level}.2", inner, outer, 4, 4)
            plan.add(f"up{number}", f"{level}.5", f"{level}.6", 2 * inner, outer, 4, 4)
        else:
            plan.add(f"down{number}", f"{level}.1", None, inner, outer, 4, 4)
            plan.add(f"up{number}", f"{level}.3", f"{level}.4", inner, outer, 4, 4)
    return plan


def _patch_discriminator(kernels: _Kernels) -> _Plan:
    width, channels = kernels["model.0"][:2]
    # The last convolution makes the score.
    layers = _length(f"model.{2 + 3 * number}" in kernels for number in count()) - 1
    if layers < 1:
        raise UnreadableError(f"holds another network; {ONLY_REFERENCE}")
    options = {"architecture": "patch", "channels": channels, "base_filters": width, "layers": layers}
    plan = _Plan("discriminator", options)
    plan.add("layer1", "model.0", None, width, channels, 4, 4)
    before = width
    for number in range(1, layers + 1):
        after = width * min(2**number, 8)
        plan.add(f"layer{number + 1}", f"model.{3 * number - 1}", f"model.{3 * number}", after, before, 4, 4)
        before = after
    plan.add("score", f"model.{3 * layers + 2}", None, 1, before, 4, 4)
    return plan


def _pixel_discriminator(kernels: _Kernels) -> _Plan:
    width, channels = kernels["net.0"][:2]
    plan = _Plan("discriminator", {"architecture": "pixel", "channels": channels, "base_filters": width})
    plan.add("layer1", "net.0", None, width, channels, 1, 1)
    plan.add("layer2", "net.2", "net.3", 2 * width, width, 1, 1)
    plan.add("score", "net.5", None, 1, 2 * width, 1, 1)
    return plan


def _length(found: Iterable[bool]) -> int:
    """How many are true, up to the first that is not."""
    return sum(takewhile(bool, found))


def _move(layer: _Layer, state: StateDict, network: keras.Model, norm: str) -> None:
    """Take a layer's weights out of the state dict and set them in the network."""
    conv = network.get_layer(f"{layer.name}_conv")
    # [out, in, h, w] to [h, w, in, out]; of a transposed convolution [in, out, h, w] to [h, w, out, in].
    weights = [_take(state, f"{layer.conv}.weight", layer.kernel).transpose(2, 3, 1, 0)]
    if conv.use_bias:
        # The reference has no bias in some places where ours has one.
        is_there = norm == "instance" or f"{layer.conv}.bias" in state
        weights.append(_take(state, f"{layer.conv}.bias", (conv.filters,)) if is_there else np.zeros(conv.filters))
    conv.set_weights(weights)
    if layer.norm is not None and norm == "batch":
        names = [f"{layer.norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        network.get_layer(f"{layer.name}_norm").set_weights([_take(state, name, (conv.filters,)) for name in names])
        # Since torch 0.4.1; it matters only with a momentum of None.
        state.pop(f"{layer.norm}.num_batches_tracked", None)


def _take(state: StateDict, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in state:
        raise UnreadableError(f"lacks {name}; {ONLY_REFERENCE}")
    array = state.pop(name)
    if array.shape != shape:
        raise _other_shape(name, array.shape, shape)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UnreadableError(f"{name} holds values that are not finite; take the weights of an earlier epoch")
    return array


def _other_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> UnreadableError:
    return UnreadableError(f"{name} has the shape {list(found)}, not {list(expected)}; {ONLY_REFERENCE}")

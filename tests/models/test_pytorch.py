"""Networks of the reference implementation: what PyTorch computes, and what its files must hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cyclegan.models import size_multiple
from cyclegan.models.legacy.pytorch import load_pytorch_network
from cyclegan.models.legacy.pytorch_file import read_state_dict
from cyclegan.system.errors import UserError
from pytorch_files import write_state_dict

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pytorch"
# What the files imply, beside 3 channels.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet2_instance": {"base_filters": 8, "blocks": 2, "norm": "instance", "dropout": 0.0},
    "resnet2_instance_legacy": {"base_filters": 8, "blocks": 2, "norm": "instance", "dropout": 0.0},
    "resnet9_instance": {"base_filters": 4, "blocks": 9, "norm": "instance", "dropout": 0.0},
    "resnet2_batch": {"base_filters": 8, "blocks": 2, "norm": "batch", "dropout": 0.0},
    "resnet2_batch_dropout": {"base_filters": 4, "blocks": 2, "norm": "batch", "dropout": 0.5},
    "resnet2_instance_dropout_1to3": {"channels_in": 1, "norm": "instance", "dropout": 0.5},
    "resnet2_instance_dropout_1to3_torch03": {"channels_in": 1, "norm": "instance", "dropout": 0.5},
    "resnet2_none": {"base_filters": 4, "blocks": 2, "norm": "none", "halving": "centered"},
    "resnet2_none_shared": {"base_filters": 4, "blocks": 2, "norm": "none", "halving": "centered"},
    "cut_resnet2_instance": {"base_filters": 4, "blocks": 2, "norm": "instance", "upsample": "antialias"},
    "unet128_instance": {"architecture": "unet", "depth": 7, "base_filters": 4, "norm": "instance"},
    "unet128_batch_dropout": {"architecture": "unet", "depth": 7, "base_filters": 2, "norm": "batch"},
    "unet256_batch": {"architecture": "unet", "depth": 8, "base_filters": 1, "norm": "batch"},
    "patch3_instance": {"architecture": "patch", "layers": 3, "base_filters": 8, "norm": "instance"},
    "patch3_batch": {"architecture": "patch", "layers": 3, "base_filters": 4, "norm": "batch"},
    "patch2_instance": {"architecture": "patch", "layers": 2, "norm": "instance"},
    "patch5_instance": {"architecture": "patch", "layers": 5, "base_filters": 1, "norm": "instance"},
    "pixel_instance": {"architecture": "pixel", "base_filters": 8, "norm": "instance"},
    "pixel_batch": {"architecture": "pixel", "base_filters": 8, "norm": "batch"},
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "io.npz") as archive:
        return dict(archive)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_pytorchs_and_survives_saving(
    name: str, recorded: dict[str, np.ndarray], tmp_path: Path, within: Callable[[str, float, float], None]
) -> None:
    imported = load_pytorch_network(FIXTURES / f"{name}.pth")
    assert NETWORKS[name].items() <= imported.options.items()
    is_generator = not name.startswith(("patch", "pixel"))
    assert imported.kind == ("generator" if is_generator else "discriminator")
    imported.network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    prefix = f"out/{re.sub('_(legacy|torch03|shared)$', '', name)}/"
    outputs = {key.removeprefix(prefix): output for key, output in recorded.items() if key.startswith(prefix)}
    assert outputs
    for key, expected in outputs.items():
        output = np.asarray(loaded(recorded[f"in/{key}"], training=False))
        step = output.shape[1] // expected.shape[1]  # of U-Nets a part of the pixels is recorded
        deviation = np.abs(output[:, ::step, ::step] - expected).max()
        within(f"import, PyTorch's .pth file: output of a {imported.kind}", deviation, 1e-5)
    for one, two in zip(imported.network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    if is_generator:
        assert size_multiple(loaded) == 2 ** imported.options.get("depth", 2)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A fixture with other tensors."""

    def change(name: str, edit: Callable[[dict[str, np.ndarray]], Any]) -> Path:
        state = dict(read_state_dict(FIXTURES / f"{name}.pth"))
        edit(state)
        return write_state_dict(tmp_path / "changed.pth", state)

    return change


def put(name: str, *shape: int, value: float = 0.0) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda state: state.update({name: np.full(shape, value, "f4")})


def drop(pattern: str) -> Callable[[dict[str, np.ndarray]], None]:
    """Without the tensors whose names match."""

    def edit(state: dict[str, np.ndarray]) -> None:
        for name in [name for name in state if re.match(pattern, name)]:
            del state[name]

    return edit


def keep(count: int, more: Callable[[dict[str, np.ndarray]], None] = lambda state: None) -> Callable[..., None]:
    """The first tensors alone, and more."""

    def edit(state: dict[str, np.ndarray]) -> None:
        for name in list(state)[count:]:
            del state[name]
        more(state)

    return edit


# Name → fixture, what is changed in it, reason.
OTHERS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Any], str]] = {
    "one weight more": ("resnet2_none", put("model.30.weight", 3, 3, 3, 3), r"1 unknown weights \('model.30.weight"),
    "a name of two lines": ("pixel_instance", put("a\n\x1b[2J", 1), r"weights \('a\\n\\x1b\[2J'"),
    "optimizer beside it": ("pixel_instance", put("step", 1), r"1 unknown weights \('step"),
    "a bias before batch normalization": ("pixel_batch", put("net.2.bias", 16), r"unknown weights \('net.2.bias"),
    "no head": ("resnet2_none", drop("model.19.weight"), "lacks model.19.weight"),
    "no bias": ("resnet2_instance", drop("model.4.bias"), "lacks model.4.bias"),
    "no mean": ("pixel_batch", drop("net.3.running_mean"), "lacks net.3.running_mean"),
    "the first layer alone": ("resnet2_instance", keep(1), "lacks model.17.weight"),
    "no 7x7": ("resnet2_none", put("model.1.weight", 2**16, 1, 1, 1), r"\[65536, 1, 1, 1\], not \[65536, 1, 7, 7\]"),
    # Never built: it would have gigabytes.
    "wide": ("resnet2_none", put("model.1.weight", 2**12, 3, 7, 7), r"\[8, 4, 3, 3\], not \[8192, 4096, 3, 3\]"),
    "small kernels": ("patch2_instance", put("model.2.weight", 8, 4, 3, 3), r"\[8, 4, 3, 3\], not \[8, 4, 4, 4\]"),
    "short bias": ("patch2_instance", put("model.2.bias", 4), r"model.2.bias has the shape \[4\], not \[8\]"),
    "a vector for a kernel": ("pixel_instance", put("net.2.weight", 16), "lacks net.2.weight"),
    "a flat U-Net": ("unet128_instance", drop(r"model\.model\.1\.model\.3\."), "a U-Net of 2 levels"),
    "no halvings": ("patch2_instance", keep(2), "holds another network"),
    "a linear layer": ("pixel_instance", keep(0, put("fc.weight", 10, 64)), "holds another network"),
    "two networks": ("pixel_instance", put("module.net.0.weight", 8, 3, 1, 1), "weights of several networks"),
    "another blur": (
        "cut_resnet2_instance",
        put("model.7.filt", 8, 1, 3, 3, value=1 / 9),
        "model.7.filt' is another blur",
    ),
    "a vector for a blur": ("cut_resnet2_instance", put("model.7.filt", 9), "model.7.filt' is another blur"),
    "not a number": ("pixel_instance", put("net.0.bias", 8, value=np.nan), "net.0.bias holds values that are not"),
    "infinity": ("pixel_batch", put("net.3.running_var", 16, value=np.inf), "net.3.running_var holds values"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_refused(name: str, changed: Callable[..., Path]) -> None:
    fixture, edit, reason = OTHERS[name]
    path = changed(fixture, edit)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{reason}.*; ") as refusal:
        load_pytorch_network(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_safetensors_hold_the_same_network() -> None:
    plain, other = (load_pytorch_network(FIXTURES / f"pixel_batch.{ending}") for ending in ("pth", "safetensors"))
    assert other.options == plain.options
    for one, two in zip(plain.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_names_of_wrappers_and_unused_statistics_are_dropped(changed: Callable[..., Path]) -> None:
    plain = load_pytorch_network(FIXTURES / "pixel_instance.pth")

    def wrap(state: dict[str, np.ndarray]) -> None:
        state |= {"net.3.running_mean": np.ones(16, "f4"), "net.3.running_var": np.ones(16, "f4")}
        state |= {f"module._orig_mod.{name}": state.pop(name) for name in list(state)}

    wrapped = load_pytorch_network(changed("pixel_instance", wrap))
    assert wrapped.options == plain.options
    for one, two in zip(plain.network.get_weights(), wrapped.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)

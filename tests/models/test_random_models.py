"""Networks of random form: each builds, runs, and is the same network after saving and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cyclegan.models import build_discriminator, build_generator, size_multiple

pytestmark = pytest.mark.usefixtures("deterministic")

few = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    # Shrinking a failure builds hundreds of networks.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
many = settings(few, max_examples=200, derandomize=False)

norms = st.sampled_from(["instance", "instance_contrib", "batch", "none"])
common = {
    "base_filters": st.integers(1, 4),
    "norm": norms,
    "init": st.sampled_from(["normal", "xavier", "kaiming", "orthogonal"]),
    "init_gain": st.floats(0.02, 1),
    "seed": st.integers(0, 2**31 - 1),
}


@st.composite
def generator_options(draw: st.DrawFn) -> dict[str, Any]:
    options = {name: draw(strategy) for name, strategy in common.items()}
    options["channels_in"], options["channels_out"] = draw(st.sampled_from([(1, 1), (3, 3), (4, 4), (1, 3), (3, 1)]))
    options["architecture"] = draw(st.sampled_from(["resnet", "unet", "unet_full"]))
    options["dropout"] = draw(st.sampled_from([0.0, 0.5]))
    if options["architecture"] == "resnet":
        options["blocks"] = draw(st.integers(0, 2))
        options["skip"] = draw(st.sampled_from(["add", "concat"]))
        options["padding"] = draw(st.sampled_from(["reflect", "same"]))
        options["upsample"] = draw(st.sampled_from(["transpose", "resize", "antialias"]))
    else:
        options["depth"] = draw(st.integers(3, 5))
        options["upsample"] = draw(st.sampled_from(["transpose", "resize"]))
    options["output_norm"] = options["norm"] != "none" and draw(st.booleans())
    options["residual_output"] = options["channels_in"] == options["channels_out"] and draw(st.booleans())
    return options


@st.composite
def discriminator_options(draw: st.DrawFn) -> dict[str, Any]:
    options = {name: draw(strategy) for name, strategy in common.items()}
    options["channels"] = draw(st.sampled_from([1, 3, 4]))
    options["architecture"] = draw(st.sampled_from(["patch", "tutorial", "pixel"]))
    options["layers"] = draw(st.integers(1, 3)) if options["architecture"] == "patch" else 3
    options["spectral_norm"] = draw(st.booleans())
    return options


def check_file(model: keras.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    """The network's output, the same from a copy that went through a file, in training too."""
    y = np.asarray(model(x))
    assert np.isfinite(y).all()
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), y)
    np.testing.assert_array_equal(loaded(x, training=True), model(x, training=True))
    assert loaded.to_json() == model.to_json()
    return y


def check_generator(options: dict[str, Any], rows: int, columns: int, folder: Path) -> None:
    generator = build_generator(**options)
    # Reflecting 3 pixels needs more than 3.
    side = max(size_multiple(generator), 8)
    shape = (1, side * rows, side * columns)
    x = np.random.default_rng(0).uniform(-1, 1, (*shape, options["channels_in"])).astype("float32")
    y = check_file(generator, x, folder)
    assert y.shape == (*shape, options["channels_out"])
    assert np.abs(y).max() <= 1


def check_discriminator(options: dict[str, Any], folder: Path) -> None:
    discriminator = build_discriminator(**options)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 24, options["channels"])).astype("float32")
    y = check_file(discriminator, x, folder)
    assert y.shape == discriminator.compute_output_shape(x.shape)
    assert (y.shape[0], y.shape[3]) == (2, 1)


pytestmark = pytest.mark.filterwarnings("error::UserWarning")
counts = st.integers(1, 2)


@few
@given(options=generator_options(), rows=counts, columns=counts)
def test_random_generators(options: dict[str, Any], rows: int, columns: int, tmp_path: Path) -> None:
    check_generator(options, rows, columns, tmp_path)


@few
@given(options=discriminator_options())
def test_random_discriminators(options: dict[str, Any], tmp_path: Path) -> None:
    check_discriminator(options, tmp_path)


@pytest.mark.slow
@many
@given(options=generator_options(), rows=counts, columns=counts)
def test_many_random_generators(options: dict[str, Any], rows: int, columns: int, tmp_path: Path) -> None:
    check_generator(options, rows, columns, tmp_path)


@pytest.mark.slow
@many
@given(options=discriminator_options())
def test_many_random_discriminators(options: dict[str, Any], tmp_path: Path) -> None:
    check_discriminator(options, tmp_path)

"""The feature networks, against the original network's own output and against networks of known effect."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.system.errors import UserError

ROOT = Path(__file__).parents[2]
EFFICIENTNET = ROOT / "data" / "features" / "efficientnet-lite0.npz"
REFERENCE = Path(__file__).parents[1] / "fixtures" / "efficientnet_lite0.npz"


@pytest.fixture(scope="module")
def small() -> FeatureNetwork:
    return load_features(EFFICIENTNET, 64)


@pytest.mark.parametrize("size", [64, 96])
def test_features_are_those_of_the_published_network(size: int, small: FeatureNetwork) -> None:
    """`tools/convert_efficientnet_lite0.py` describes the reference. Weights are stored with 16 bits, which moves a
    feature vector by less than 1 % of its length, and its direction by much less."""
    network = small if size == 64 else load_features(EFFICIENTNET, size)
    with np.load(REFERENCE) as saved:
        images, expected = saved[f"pictures_{size}"], saved[f"features_{size}"].astype(np.float64)
    got = network(images)
    assert got.shape == (4, 1280)
    assert got.dtype == np.float64
    lengths = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(got - expected, axis=1) < 0.01 * lengths).all()
    cosine = (got * expected).sum(axis=1) / lengths / np.linalg.norm(got, axis=1)
    assert (cosine > 0.9999).all()
    # The images themselves differ by far more than the tolerance.
    assert np.linalg.norm(expected[0] - expected[1]) > 0.1 * lengths[0]
    assert network.name == f"efficientnet-lite0 at {size}×{size}"


def test_images_of_any_kind(small: FeatureNetwork) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 30, 3), np.uint8)
    features = small(images)
    assert features.shape == (40, 1280)
    # Batches, 16 bits, and gray as three equal channels do not change the features.
    np.testing.assert_allclose(small(images[35:]), features[35:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(small(images[:2].astype(np.uint16) * 257), features[:2], rtol=1e-4, atol=1e-4)
    gray = images[:2, :, :, :1]
    np.testing.assert_allclose(small(gray), small(gray.repeat(3, axis=-1)), rtol=1e-4, atol=1e-4)
    assert small(images[:0]).shape == (0, 1280)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"efficientnet-lite0\.npz.* does not exist"):
        load_features(tmp_path / EFFICIENTNET.name, 64)
    file = Path(shutil.copy(EFFICIENTNET, tmp_path))
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="altered or incomplete"):
        load_features(file, 64)


@pytest.mark.parametrize("pooled", [True, False])
def test_a_keras_model_of_the_user(tmp_path: Path, pooled: bool) -> None:
    image = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(2)(image)
    keras.Model(image, keras.layers.GlobalAveragePooling2D()(x) if pooled else x).save(tmp_path / "mean.keras")
    network = load_features(tmp_path / "mean.keras", 16)
    assert (network.name, network.dimensions) == ("mean.keras at 16×16", 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    expected = images.mean(axis=(1, 2)) / 127.5 - 1
    # Enlarging repeats the borders, so the mean moves a little.
    np.testing.assert_allclose(network(images), expected, atol=0.1)
    flat = np.broadcast_to(images[:, :1, :1], images.shape)
    np.testing.assert_allclose(network(flat), flat[:, 0, 0] / 127.5 - 1, atol=1e-6)


def test_models_that_are_no_feature_networks(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Reshape((64, 3))(image)).save(tmp_path / "three.keras")
    gray = keras.Input((8, 8, 1))
    keras.Model(gray, keras.layers.Flatten()(gray)).save(tmp_path / "gray.keras")
    for name in ("text.keras", "text.h5"):
        (tmp_path / name).write_text("no model")
    for name, size, expected in (
        ("none.keras", 8, "none.keras.* does not exist"),
        ("text.keras", 8, "text.keras"),
        ("three.keras", 8, r"three.keras.*returns \(None, 64, 3\)"),
        ("three.keras", 16, r"three.keras.*\(None, 8, 8, 3\).*\[N, 16, 16, 3\]"),
        ("gray.keras", 8, r"gray.keras.*\(None, 8, 8, 1\)"),
        ("text.h5", 64, "at least 75 pixels"),
        ("text.h5", 75, "text.h5.*evaluate.features_size.* 75"),
    ):
        with pytest.raises(UserError, match=expected):
            load_features(tmp_path / name, size)


@pytest.mark.slow
def test_inception_from_its_weights_on_disk(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    original = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(75, 75, 3), pooling="avg")
    original.save_weights(tmp_path / "random.weights.h5")
    network = load_features(tmp_path / "random.weights.h5", 75)
    assert network.dimensions == 2048
    assert network.name.startswith("inception-v3 (Keras' ImageNet weights) at 75×75")
    images = np.random.default_rng(0).integers(0, 256, (2, 75, 75, 3), np.uint8)
    np.testing.assert_allclose(network(images), original(images / 127.5 - 1), rtol=1e-3, atol=1e-4)

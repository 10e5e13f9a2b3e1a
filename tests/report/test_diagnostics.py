"""Each fault is planted in real images, and is the only one that is found there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.checkerboard import StrideSpectrum, luminance_correlation
from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.evaluation.protocol import RealImages, evaluate
from cyclegan.models.translator import Translator
from cyclegan.report.diagnostics import diagnose, diagnose_discriminators

Linear = Callable[..., keras.Model]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_features(ROOT / "data/features/efficientnet-lite0.npz", 64)


def uneven_upsampling(strength: float) -> keras.Model:
    """Halves an image and doubles it again by a transposed convolution whose kernel overlaps unevenly."""
    image = keras.Input((None, None, 3))
    small = keras.layers.AveragePooling2D(2)(image)
    doubled = keras.layers.Conv2DTranspose(3, 2, 2, use_bias=True)
    model = keras.Model(image, doubled(small))
    kernel = np.zeros((2, 2, 3, 3), np.float32)
    kernel[..., range(3), range(3)] = 1
    # White stays white: an offset, not a factor, so that the pattern lies over the background too.
    kernel[0, 0] *= 1 - strength
    kernel[1, 1] *= 1 - strength
    doubled.set_weights([kernel, np.zeros(3, np.float32)])
    return model


def faults(dataset: PackedDataset, real: RealImages, generator: keras.Model) -> set[str]:
    translators = {direction: Translator(generator, batch_size=64) for direction in ("AtoB", "BtoA")}
    metrics = evaluate(translators, dataset, "test", real).metrics
    one, other = (
        {finding.name for finding in diagnose(metrics[direction], *direction.split("to"), 10) if finding.is_fault}
        for direction in ("AtoB", "BtoA")
    )
    assert one == other
    return one


def test_planted_faults_are_distinguished(few: PackedDataset, network: FeatureNetwork, linear: Linear) -> None:
    real = RealImages(few, "test", network)
    # The colors change as they do between the two styles, without a fault.
    assert faults(few, real, linear(np.eye(3) * 0.8 + 0.05, 0.05)) == set()
    assert faults(few, real, linear(np.eye(3))) == {"output equals input"}
    assert faults(few, real, linear(-np.eye(3))) >= {"colors inverted"}
    assert faults(few, real, linear(np.zeros((3, 3)), 0.3)) >= {"mode collapse", "input ignored"}
    assert faults(few, real, uneven_upsampling(0.2)) == {"checkerboard"}


def test_findings_state_measurement_and_threshold() -> None:
    (finding,) = diagnose({"change_l1": 0.0034, "n": 10}, "A", "B", 10)
    assert finding.is_fault
    assert "differ by 0.34% of the range on average; under 1% is a warning" in finding.text
    (finding,) = diagnose({"change_l1": 0.02, "n": 10}, "A", "B", 10)
    assert not finding.is_fault
    (finding,) = diagnose({"diversity": 0.3, "n": 10}, "A", "B", 10)
    assert "by 30% of the difference between real images of B; under 50% is a warning" in finding.text
    (finding,) = diagnose({"checkerboard": 3.2, "n": 10}, "A", "B", 10)
    assert finding.text.startswith("The output has a checkerboard pattern")
    assert diagnose({"n": 10, "cycle_l1": 0.1}, "A", "B", 10) == []


def test_a_diagnosis_needs_enough_images() -> None:
    metrics = {"diversity": 0.1, "checkerboard": 9.0, "input_top1": 0.0, "change_l1": 0.5, "n": 6}
    assert {f.name for f in diagnose(metrics, "A", "B", 4) if f.is_fault} == {
        "mode collapse",
        "checkerboard",
        "input ignored",
    }
    assert [f.name for f in diagnose(metrics, "A", "B", 3)] == ["output equals input", "input ignored"]
    assert [f.name for f in diagnose({**metrics, "n": 5}, "A", "B", 3)] == ["output equals input"]


@pytest.mark.parametrize(("period", "amplitude"), [(2, 2), (4, 4)])
def test_patterns_at_the_stride_frequencies_stand_out(emoji: PackedDataset, period: int, amplitude: int) -> None:
    images = np.asarray(emoji.images("B", "test"))
    clean, planted, noisy = StrideSpectrum(), StrideSpectrum(), StrideSpectrum()
    clean.add(images)
    cells = np.indices(images.shape[1:3]) // (period // 2)
    pattern = amplitude * (2 * (cells.sum(axis=0) % 2) - 1)[None, :, :, None]
    planted.add(np.clip(images.astype(int) + pattern, 0, 255).astype(np.uint8))
    noise = np.random.default_rng(0).normal(0, 10, images.shape)
    noisy.add(np.clip(images + noise, 0, 255).astype(np.uint8))
    assert clean.energy is not None
    assert planted.energy > 3 * clean.energy
    assert noisy.energy < 1.5 * clean.energy


def test_small_images_have_no_spectrum() -> None:
    spectrum = StrideSpectrum()
    spectrum.add(np.zeros((3, 31, 64, 3), np.uint8))
    assert spectrum.energy is None
    spectrum.add(np.zeros((3, 33, 34, 3), np.uint8))
    assert spectrum.energy == 0


def test_brightness_of_image_and_negative() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3), np.uint8)
    np.testing.assert_allclose(luminance_correlation(images, images), 1)
    np.testing.assert_allclose(luminance_correlation(255 - images, images), -1)
    gray = images[..., :1]
    expected = [
        np.corrcoef(a.ravel(), (b @ [0.299, 0.587, 0.114]).ravel())[0, 1] for a, b in zip(gray, images, strict=True)
    ]
    np.testing.assert_allclose(luminance_correlation(gray, images), expected)
    assert np.isnan(luminance_correlation(np.full_like(images, 7), images)).all()


def history(real: float, fake: float, rows: int = 40) -> pd.DataFrame:
    """Outputs that start at 0.5 and end at these values, with the gaps of validation rows."""
    last = np.arange(rows) >= rows - rows // 10
    columns = {}
    for name in ("D_A", "D_B"):
        columns[f"{name}/output_real"] = np.where(last, real, 0.5)
        columns[f"{name}/output_fake"] = np.where(last, fake, 0.5)
    gap = pd.DataFrame({"step": [1, 2], "val_AtoB/kid": [0.1, 0.2]})
    return pd.concat([pd.DataFrame(columns), gap], ignore_index=True)


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [(0.97, 0.02, "won"), (0.51, 0.49, "lost"), (0.75, 0.25, None), (0.97, 0.5, None)],
)
def test_a_discriminator_that_won_or_lost_is_reported(real: float, fake: float, expected: str | None) -> None:
    findings = diagnose_discriminators(history(real, fake), "least_squares")
    assert [finding.name for finding in findings] == [f"{d} {expected}" if expected else d for d in ("D_A", "D_B")]
    assert all(finding.is_fault == (expected is not None) for finding in findings)
    assert f"gave real images {real:.2f} and translations {fake:.2f}" in findings[0].text
    assert diagnose_discriminators(history(real, fake), "wasserstein") == []
    assert diagnose_discriminators(pd.DataFrame({"step": [1]}), "least_squares") == []

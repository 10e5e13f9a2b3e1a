"""Several devices with one batch compute what one device computes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("replica_runs.py")
# Of float64 and float32. A bias ahead of a normalization has no gradient but rounding errors, of which Adam makes
# steps, so only kernels are compared.
TOLERANCES = {"float64": (1e-11, 1e-12), "float32": (1e-4, 1e-5)}


def compared(*arguments: str) -> dict[str, dict[str, float]]:
    """The deviations that `replica_runs.py` prints, by run."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ""}
    )
    return json.loads(done.stdout.splitlines()[-1])


def assert_equal(results: dict[str, dict[str, float]], dtype: str = "float64") -> None:
    for name, found in results.items():
        losses, kernels = TOLERANCES[dtype]
        assert found["losses"] < losses, (name, found)
        assert found["kernels"] < kernels, (name, found)
        assert found["pools"] < 10 * losses, (name, found)
        assert (found["counters"], found["copies that differ"], found["other names"]) == (0, 0, 0), (name, found)


def test_two_devices_equal_one() -> None:
    """With image pools, more images for the discriminator, augmentation, averages and clipping."""
    assert_equal(compared("--eager", "--steps", "2", "small:joint"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_equal_one(devices: int) -> None:
    cases = ["plain", "all", "wgan", "checkpointing", "batch-norm", "spectral-norm"]
    runs = [f"{case}:joint" for case in cases] + ["plain:sequential", "all:sequential"]
    assert_equal(compared("--devices", str(devices), "--steps", "6", *runs))


@pytest.mark.slow
def test_two_devices_equal_one_in_float32() -> None:
    assert_equal(compared("--dtype", "float32", "--steps", "6", "all:joint"), "float32")


@pytest.mark.slow
def test_a_copy_of_the_images_on_each_device_gives_the_same_batches() -> None:
    assert_equal(compared("--resident", "--steps", "6", "plain:joint"))

"""The loop of `benchmarks.step` reproduces the losses of the tutorial's own loop (see fixtures/parity/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tf_keras", reason="the extra `bench` is not installed")

from benchmarks.tutorial_loop import TutorialLoop

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity" / "seed_loop.npz"
ORDER = ("kernel", "bias", "gamma", "beta")


def test_losses_of_the_first_two_steps() -> None:
    with np.load(FIXTURE) as file:
        recorded = dict(file)

    # The pool is not yet full in these steps, so it draws nothing.
    loop = TutorialLoop(size=32, base_filters=8, blocks=2, pool_size=3)
    for name in ("g_AtoB", "g_BtoA", "d_A", "d_B"):
        keys = [key for key in recorded if key.startswith(f"init/{name}/")]
        keys.sort(key=lambda key: (key.split("/")[2], ORDER.index(key.split("/")[3])))
        getattr(loop, name).set_weights([recorded[key] for key in keys])

    for step, tolerance in enumerate((1e-4, 1e-3)):
        real_A, real_B = (recorded[f"data/{d}"][recorded[f"draw/ix_{d}"][step]][None] for d in "AB")
        losses = loop.step(real_A, real_B)
        for name, value in losses.items():
            network, term = name.split("/")
            expected = recorded[f"loss/{network[0].lower()}{network[1:]}/{term}"][step]
            assert value == pytest.approx(expected, rel=tolerance), (step, name)

"""The learning rate falls on a plateau of a validation metric, and only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclegan.data.loading.pipeline import training_batches
from cyclegan.system.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.loop import train
from cyclegan.training.plateau import Plateau
from cyclegan.training.progress import Plan, Progress
from cyclegan.training.schedule import DecaySchedule

Make = Callable[..., CycleGAN]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 16, 16, 3)).astype(np.uint8)
RATE = 1e-3


@pytest.fixture
def make_model(make_small_model: Make) -> Make:
    """Small networks: these tests are about what surrounds the step."""
    return make_small_model


def factors(plateau: Plateau, values: list[float]) -> list[float]:
    rows = [{plateau.metric: value} for value in values]
    return [plateau.learning_rate_factor(rows[:n]) for n in range(len(rows) + 1)]


def test_falls_after_so_many_evaluations_without_a_new_best() -> None:
    plateau = Plateau("val_AtoB/pair_psnr", patience=2, factor=0.5)
    #                                best  best  -    fall  -     best(again counts from 0) -    fall  -     fall
    assert factors(plateau, [20, 21, 21, 20.9, 20, 21.5, 21.5, 21.4, 21.3, 21.2]) == [
        *(1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125)
    ]


@pytest.mark.parametrize(
    ("metric", "rising", "falling"),
    [("val_AtoB/pair_psnr", 1, 0.01), ("val_BtoA/cycle_ssim", 1, 0.01), ("val_AtoB/identity_l1", 0.01, 1)],
)
def test_direction_follows_from_the_name(metric: str, rising: float, falling: float) -> None:
    plateau = Plateau(metric, patience=1, factor=0.1)
    assert factors(plateau, [1.0, 2.0, 3.0])[-1] == pytest.approx(rising)
    assert factors(plateau, [3.0, 2.0, 1.0])[-1] == pytest.approx(falling)


def test_a_metric_that_is_not_measured_is_refused() -> None:
    plateau = Plateau("val_AtoB/pair_psnr", patience=1, factor=0.1)
    plateau.require({"val_AtoB/pair_psnr": 3.0})
    with pytest.raises(UserError, match=r"train\.plateau\.metric = 'val_AtoB/pair_psnr'.*use one of val_AtoB/cycle_l1"):
        plateau.require(["val_BtoA/cycle_l1", "val_AtoB/cycle_l1"])


class Silent:
    """Hears nothing, and breaks the training off where it is asked to."""

    def __init__(self, stop_at: int | None) -> None:
        self.stop_at = stop_at

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.stop_at:
            raise RuntimeError("pulled the plug")

    def log_image(self, step: int, key: str, image: np.ndarray) -> None: ...


def start(
    make_model: Make, folder: Path, plateau: Plateau | None, stop_at: int | None = None, metric: str = "val_AtoB/l1"
) -> tuple[CycleGAN, Progress]:
    """Train 12 steps with an evaluation after every second one, whose metric never improves on the first."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2)
    model.compile(schedule=DecaySchedule(RATE, 12, 1.0, "constant"))
    plan = Plan(
        epochs=6,
        steps_per_epoch=2,
        batch_size=1,
        log_every=2,
        evaluate_every=1,
        checkpoint_every=1e-9,
        plateau=plateau,
    )
    checkpoints = CheckpointFolder(folder)
    progress = Progress.restore(checkpoints, model)

    def validate() -> dict[str, float]:
        weights: Any = model.generators["AtoB"].get_weights()
        return {metric: float(sum(np.abs(w).sum() for w in weights)) if len(progress.validation) else 0.0}

    train(
        model,
        lambda step: training_batches(*IMAGES, batch_size=1, crop_size=(16, 16), flip=True, seed=3, start_step=step),
        plan,
        progress,
        checkpoints,
        Silent(stop_at),
        validate=validate,
        samples=dict,
    )
    return model, progress


PLATEAU = Plateau("val_AtoB/l1", patience=2, factor=0.5)


@pytest.fixture(scope="module")
def lowered(make_small_model: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[CycleGAN, Progress]:
    """A training whose rate falls, without a break."""
    return start(make_small_model, tmp_path_factory.mktemp("lowered"), PLATEAU)


def test_training_steps_use_the_lowered_rate(
    make_model: Make, tmp_path: Path, lowered: tuple[CycleGAN, Progress]
) -> None:
    model, progress = lowered
    rates = [row["learning_rate"] for row in progress.losses]
    np.testing.assert_allclose(rates, RATE * np.array([1, 1, 1, 0.5, 0.5, 0.25]), rtol=1e-6)
    assert float(model.learning_rate_factor) == 0.25

    constant, progress = start(make_model, tmp_path, None)
    np.testing.assert_allclose([row["learning_rate"] for row in progress.losses], RATE, rtol=1e-6)
    assert float(constant.learning_rate_factor) == 1
    assert not np.array_equal(constant.G_AtoB.get_weights()[0], model.G_AtoB.get_weights()[0])


@pytest.mark.parametrize("stop_at", [6, pytest.param(10, marks=pytest.mark.slow)])
def test_resumed_training_falls_at_the_same_steps(
    make_model: Make, tmp_path: Path, lowered: tuple[CycleGAN, Progress], stop_at: int
) -> None:
    expected, expected_progress = lowered
    with pytest.raises(RuntimeError, match="pulled the plug"):
        start(make_model, tmp_path, PLATEAU, stop_at)
    resumed, progress = start(make_model, tmp_path, PLATEAU)
    assert progress.losses == expected_progress.losses
    assert progress.validation == expected_progress.validation
    for name, variable in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_the_first_evaluation_refuses_a_missing_metric(make_model: Make, tmp_path: Path) -> None:
    plateau = Plateau("val_AtoB/pair_psnr", patience=2, factor=0.5)
    with pytest.raises(UserError, match="yields no such metric; use one of val_AtoB/l1"):
        start(make_model, tmp_path, plateau)


def test_other_policies_are_untouched_by_the_factor(make_model: Make) -> None:
    """Multiplying by 1 changes no bit of any policy's rate."""
    model = make_model()
    model.compile()
    for policy in ("constant", "linear", "cosine", "step"):
        schedule = DecaySchedule(2e-4, 50, 0.5, policy)
        for step in range(50):
            rate = schedule(step).numpy()
            assert (rate * model.learning_rate_factor.numpy()).tobytes() == rate.tobytes()

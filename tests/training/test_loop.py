"""A training that is stopped anywhere and resumed equals one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cyclegan.data.pipeline import training_batches
from cyclegan.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.loop import Plan, Progress, only_trainer, train
from cyclegan.training.schedule import DecaySchedule

Make = Callable[..., CycleGAN]
PLAN = Plan(epochs=3, steps_per_epoch=5, batch_size=1, log_every=4, evaluate_every=1, checkpoint_every=0.0)
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 7, 18, 18, 3)).astype(np.uint8)


class Recorder:
    """Keeps what it is told, and stops the training where it is asked to."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self.points: list[tuple[int, str, float]] = []
        self.images: list[tuple[int, str]] = []
        self.stop_at, self.error = stop_at, error

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.points += [(step, name, value) for name, value in metrics.items()]
        if self.stop_at == step:
            if self.error:
                raise self.error
            os.kill(os.getpid(), signal.SIGTERM)

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self.images.append((step, key))


def start(make_model: Make, folder: Path, recorder: Recorder, plan: Plan = PLAN) -> tuple[CycleGAN, Progress]:
    """What stage `train` does, on random pictures."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2, ema_decay=0.9, generator={"dropout": 0.2})
    model.compile(schedule=DecaySchedule(2e-3, plan.total_steps, 0.5, "linear"))
    checkpoints = CheckpointFolder(folder)
    progress = Progress.restore(checkpoints, model)
    train(
        model,
        lambda step: training_batches(*PICTURES, batch_size=1, crop_size=(16, 16), flip=True, seed=3, start_step=step),
        plan,
        progress,
        checkpoints,
        recorder,
        validate=lambda: {"val": float(np.sum([w.sum() for w in model.generators["AtoB"].get_weights()]))},
        samples=lambda: {"samples": np.zeros((4, 4, 3), np.uint8)},
    )
    return model, progress


def timeless(points: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
    return [point for point in points if "per_second" not in point[1] and "seconds" not in point[1]]


@pytest.mark.parametrize("stop_at", [4, 12])
def test_resumed_training_is_bit_identical(make_model: Make, tmp_path: Path, stop_at: int) -> None:
    whole = Recorder()
    expected, expected_progress = start(make_model, tmp_path / "whole", whole)

    first = Recorder(stop_at=stop_at)
    with pytest.raises(SystemExit) as stopped:
        start(make_model, tmp_path / "parts", first)
    assert stopped.value.code == 128 + signal.SIGTERM
    second = Recorder()
    resumed, progress = start(make_model, tmp_path / "parts", second)

    for name, variable in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)
    assert sorted(timeless(first.points + second.points)) == sorted(timeless(whole.points))
    assert first.images + second.images == whole.images
    assert progress.losses == expected_progress.losses
    assert progress.validation == expected_progress.validation
    assert [row["step"] for row in progress.losses] == [4, 8, 12, 15]
    assert [row["step"] for row in progress.validation] == [8, 12, 15]


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(make_model: Make, tmp_path: Path) -> None:
    expected, _ = start(make_model, tmp_path / "whole", Recorder())
    with pytest.raises(RuntimeError, match="pulled the plug"):
        start(make_model, tmp_path / "parts", Recorder(stop_at=12, error=RuntimeError("pulled the plug")))
    second = Recorder()
    resumed, _ = start(make_model, tmp_path / "parts", second)
    assert min(step for step, _, _ in second.points) == 12
    for name, variable in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_checkpoints_come_at_their_interval_and_at_the_end(make_model: Make, tmp_path: Path) -> None:
    class Watching(Recorder):
        """Sees what lies in the folder whenever losses are reported."""

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder, self.saved = folder, set[int]()

        def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
            self.saved |= {int(file.stem.removeprefix("step-")) for file in self.folder.glob("*.npz")}

    for minutes, expected in ((0.0, {4, 8, 12}), (60.0, set())):
        watching = Watching(tmp_path / str(minutes))
        start(make_model, watching.folder, watching, replace(PLAN, checkpoint_every=minutes))
        assert watching.saved == expected
        assert (watching.folder / "step-000000015.npz").is_file()


def test_a_finished_training_has_nothing_left_to_do(make_model: Make, tmp_path: Path) -> None:
    start(make_model, tmp_path, Recorder())
    again = Recorder()
    _, progress = start(make_model, tmp_path, again)
    assert again.points == []
    assert progress.step == PLAN.total_steps


def test_divergence_stops_the_training_and_keeps_the_last_good_state(make_model: Make, tmp_path: Path) -> None:
    class Poison(Recorder):
        def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
            super().log_metrics(step, metrics)
            if step == 8:
                PICTURES_FLOAT[...] = np.nan

    PICTURES_FLOAT = np.ones((1, 16, 16, 3), np.float32)

    def batches(step: int) -> tf.data.Dataset:
        def generate() -> Any:
            while True:
                yield PICTURES_FLOAT.copy(), PICTURES_FLOAT.copy()

        spec = tf.TensorSpec((1, 16, 16, 3), tf.float32)
        return tf.data.Dataset.from_generator(generate, output_signature=(spec, spec))

    model = make_model()
    model.compile()
    checkpoints = CheckpointFolder(tmp_path)
    plan = Plan(epochs=1, steps_per_epoch=40, batch_size=1, log_every=4, evaluate_every=1, checkpoint_every=0.0)
    with pytest.raises(UserError, match=r"training diverged: \S+ became nan by step \d+.*train.learning_rate"):
        train(model, batches, plan, Progress(), checkpoints, Poison(), dict, dict)
    fresh = make_model()
    fresh.compile()
    assert Progress.restore(checkpoints, fresh).step == 8
    assert all(np.isfinite(variable.numpy()).all() for variable in fresh.state().values())


def test_one_trainer_for_one_run(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from cyclegan.training.loop import only_trainer\n"
        "with only_trainer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains this run"), only_trainer(tmp_path):
            pass
        other.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # the system frees the lock of a killed process in its own time
        try:
            with only_trainer(tmp_path):
                return
        except UserError:
            time.sleep(0.1)
    pytest.fail("the lock of a killed process was not freed")

"""A training that is stopped anywhere and resumed equals one that was not."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.data.loading.pipeline import training_batches
from cyclegan.system.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.divergence import Retries
from cyclegan.training.loop import train
from cyclegan.training.progress import Plan, Progress
from cyclegan.training.schedule import DecaySchedule

Make = Callable[..., CycleGAN]
PLAN = Plan(epochs=3, steps_per_epoch=5, batch_size=1, log_every=4, evaluate_every=1, checkpoint_every=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 18, 18, 3)).astype(np.uint8)


@pytest.fixture
def make_model(make_small_model: Make) -> Make:
    """Small networks: these tests are about what surrounds the step."""
    return make_small_model


class Recorder:
    """Keeps what it is told, and stops the training where it is asked to."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self.points: list[tuple[int, str, float]] = []
        self.images: list[tuple[int, str]] = []
        self.tags: dict[str, str] = {}
        self.ended_by: BaseException | None = None
        self.stop_at, self.error = stop_at, error

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.points += [(step, name, value) for name, value in metrics.items()]
        if self.stop_at == step:
            if self.error:
                raise self.error
            os.kill(os.getpid(), signal.SIGTERM)

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self.images.append((step, key))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags


class Poisoner(Recorder):
    """Fills a weight with a value that is no number once it is told of a step."""

    def __init__(self, weight: keras.Variable, value: float, step: int) -> None:
        super().__init__()
        self.weight, self.value, self.at = weight, value, step

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        super().log_metrics(step, metrics)
        if step == self.at:
            self.weight.assign(np.full(self.weight.shape, self.value, np.float32))


def start(make_model: Make, folder: Path, recorder: Recorder, plan: Plan = PLAN) -> tuple[CycleGAN, Progress]:
    """What stage `train` does, on random images."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2, ema_decay=0.9)
    model.compile(schedule=DecaySchedule(2e-3, plan.total_steps, 0.5, "linear"))
    checkpoints = CheckpointFolder(folder)
    progress = Progress.restore(checkpoints, model)
    train(
        model,
        lambda step: training_batches(*IMAGES, batch_size=1, crop_size=(16, 16), flip=True, seed=3, start_step=step),
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


@dataclass(frozen=True)
class Whole:
    """A training by `PLAN` that nothing interrupted."""

    folder: Path
    recorder: Recorder
    progress: Progress
    state: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(make_small_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, recorder = tmp_path_factory.mktemp("whole"), Recorder()
    model, progress = start(make_small_model, folder, recorder)
    return Whole(folder, recorder, progress, {name: value.numpy() for name, value in model.state().items()})


@pytest.mark.parametrize("stop_at", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_resumed_training_is_bit_identical(make_model: Make, tmp_path: Path, whole: Whole, stop_at: int) -> None:
    first = Recorder(stop_at=stop_at)
    with pytest.raises(SystemExit) as stopped:
        start(make_model, tmp_path / "parts", first)
    assert stopped.value.code == 128 + signal.SIGTERM
    second = Recorder()
    resumed, progress = start(make_model, tmp_path / "parts", second)

    for name, value in whole.state.items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), value, err_msg=name)
    assert sorted(timeless(first.points + second.points)) == sorted(timeless(whole.recorder.points))
    assert first.images + second.images == whole.recorder.images
    assert progress.losses == whole.progress.losses
    assert progress.validation == whole.progress.validation
    # Every fourth step, and where an epoch ends.
    assert [row["step"] for row in progress.losses] == [4, 5, 8, 10, 12, 15]
    assert [row["step"] for row in progress.validation] == [5, 10, 15]


@pytest.mark.slow
def test_training_resumed_in_bfloat16_is_bit_identical(make_model: Make, tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        whole, _ = start(make_model, tmp_path / "whole", Recorder())
        with pytest.raises(SystemExit):
            start(make_model, tmp_path / "parts", Recorder(stop_at=4))
        resumed, _ = start(make_model, tmp_path / "parts", Recorder())
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in whole.D_A.layers} >= {"bfloat16"}
    for name, variable in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(make_model: Make, tmp_path: Path, whole: Whole) -> None:
    with pytest.raises(RuntimeError, match="pulled the plug"):
        start(make_model, tmp_path / "parts", Recorder(stop_at=12, error=RuntimeError("pulled the plug")))
    second = Recorder()
    resumed, _ = start(make_model, tmp_path / "parts", second)
    assert min(step for step, _, _ in second.points) == 12
    for name, value in whole.state.items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), value, err_msg=name)


def test_checkpoints_come_at_their_interval_and_at_the_end(make_model: Make, tmp_path: Path) -> None:
    class Watching(Recorder):
        """Sees what lies in the folder whenever losses are reported."""

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder, self.saved = folder, set[int]()

        def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
            # Two are kept; what lies there at 4 was saved at 2 and 3, within the window, at 10 at the end of one and 9.
            self.saved |= {int(file.stem.removeprefix("step-")) for file in self.folder.glob("*.npz")}

    for minutes, expected in ((0.0, {2, 3, 4, 6, 7, 8, 9, 10, 11, 13, 14}), (60.0, set())):
        watching = Watching(tmp_path / str(minutes))
        start(make_model, watching.folder, watching, replace(PLAN, checkpoint_every=minutes))
        assert watching.saved == expected
        assert (watching.folder / "step-000000015.npz").is_file()


def test_a_finished_training_has_nothing_left_to_do(make_model: Make, tmp_path: Path, whole: Whole) -> None:
    again = Recorder()
    _, progress = start(make_model, shutil.copytree(whole.folder, tmp_path / "copy"), again)
    assert again.points == []
    assert progress.step == PLAN.total_steps


def test_divergence_stops_the_training_and_keeps_the_last_good_state(make_model: Make, tmp_path: Path) -> None:
    def batches(step: int) -> tf.data.Dataset:
        def generate() -> Any:
            for number in itertools.count(step):
                image = np.full((1, 16, 16, 3), np.nan if number >= 8 else 1.0, np.float32)
                yield image, image

        spec = tf.TensorSpec((1, 16, 16, 3), tf.float32)
        return tf.data.Dataset.from_generator(generate, output_signature=(spec, spec))

    model = make_model()
    model.compile()
    checkpoints = CheckpointFolder(tmp_path)
    plan = Plan(epochs=1, steps_per_epoch=40, batch_size=1, log_every=4, evaluate_every=1, checkpoint_every=0.0)
    with pytest.raises(UserError, match=r"training diverged: \S+ became nan by step \d+.*train.learning_rate"):
        train(model, batches, plan, Progress(), checkpoints, Recorder(), dict, dict)
    fresh = make_model()
    fresh.compile()
    assert Progress.restore(checkpoints, fresh).step == 8
    assert all(np.isfinite(variable.numpy()).all() for variable in fresh.state().values())


DIVERGING = Plan(
    epochs=3,
    steps_per_epoch=4,
    batch_size=1,
    log_every=2,
    evaluate_every=1,
    checkpoint_every=0.0,
    on_divergence=Retries(retries=2, factor=1e-6),
)


def diverging(
    make_model: Make, folder: Path, plan: Plan, batches: Slow, rate: float = 1e9, recorder: Recorder | None = None
) -> tuple[CycleGAN, Progress, Recorder]:
    """A learning rate that no network survives."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2)
    model.compile(schedule=DecaySchedule(rate, plan.total_steps, 0.5, "constant"))
    progress, recorder = Progress.restore(CheckpointFolder(folder), model), recorder or Recorder()
    try:
        train(
            model, batches, plan, progress, CheckpointFolder(folder), recorder,
            validate=lambda: {"val": float(model.step.numpy())},
            samples=lambda: {"samples": np.zeros((4, 4, 3), np.uint8)},
        )  # fmt: skip
    except (UserError, SystemExit, RuntimeError) as error:
        recorder.ended_by = error
    return model, progress, recorder


def test_a_diverged_training_goes_back_and_on_with_a_lower_rate(
    make_model: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, progress, recorder = diverging(make_model, tmp_path / "first", DIVERGING, Slow(0.0))
    assert recorder.ended_by is None
    assert 1 <= len(progress.rollbacks) <= 2
    texts = [rollback["why"] for rollback in progress.rollbacks]
    assert texts[0].endswith("back to step 0, learning rate times 1e-06")
    assert recorder.tags == {f"cyclegan.diverged.{n}": text for n, text in enumerate(texts, 1)}
    assert f"training diverged: {texts[0]}" in capsys.readouterr().err
    assert all(np.isfinite(variable.numpy()).all() for variable in model.state().values())
    assert float(model.learning_rate_factor.numpy()) == pytest.approx(1e-6 ** len(progress.rollbacks), rel=1e-4)
    # What was gone back on is in no series.
    for name in ("G_AtoB/total", "D_A/output_real", "training/learning_rate", "training/images_per_second"):
        assert [step for step, key, _ in recorder.points if key == name] == [2, 4, 6, 8, 10, 12], name
    assert [step for step, _, value in recorder.points if not np.isfinite(value)] == []
    assert recorder.images == [(4, "samples"), (8, "samples"), (12, "samples")]
    assert [row["step"] for row in progress.losses] == [2, 4, 6, 8, 10, 12]

    again, again_progress, _ = diverging(make_model, tmp_path / "second", DIVERGING, Slow(0.0))
    assert again_progress.rollbacks == progress.rollbacks
    for name, variable in model.state().items():
        np.testing.assert_array_equal(again.state()[name].numpy(), variable.numpy(), err_msg=name)

    _, _, before = diverging(make_model, tmp_path / "killed", DIVERGING, Slow(0.0), recorder=Recorder(6))
    assert isinstance(before.ended_by, SystemExit)
    resumed, resumed_progress, after = diverging(make_model, tmp_path / "killed", DIVERGING, Slow(0.0))
    assert resumed_progress.rollbacks == progress.rollbacks
    assert timeless(before.points + after.points) == timeless(recorder.points)
    for name, variable in model.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


@pytest.mark.slow
def test_a_crash_between_telling_of_an_evaluation_and_saving_it_changes_no_point(
    make_model: Make, tmp_path: Path
) -> None:
    """What was told before the state was saved is told again by the resumed training, to the same bits."""
    expected, _, whole = diverging(make_model, tmp_path / "whole", DIVERGING, Slow(0.0), rate=1e-3)
    # Of step 4 it hears at the evaluation of step 8.
    crashing = Recorder(4, RuntimeError("pulled the plug"))
    _, _, first = diverging(make_model, tmp_path / "parts", DIVERGING, Slow(0.0), 1e-3, crashing)
    assert isinstance(first.ended_by, RuntimeError)
    assert CheckpointFolder(tmp_path / "parts" / "good").steps() == [4, 0]
    resumed, _, second = diverging(make_model, tmp_path / "parts", DIVERGING, Slow(0.0), rate=1e-3)
    assert second.ended_by is None
    assert set(timeless(first.points + second.points)) == set(timeless(whole.points))
    assert first.images + second.images == whole.images
    for name, variable in expected.state().items():
        np.testing.assert_array_equal(resumed.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_a_training_that_diverges_again_and_again_stops(make_model: Make, tmp_path: Path) -> None:
    plan = replace(DIVERGING, on_divergence=Retries(retries=2, factor=0.9))
    _, progress, recorder = diverging(make_model, tmp_path, plan, Slow(0.0))
    assert isinstance(recorder.ended_by, UserError)
    assert re.fullmatch(
        r"training diverged: \S+ became \S+.* by step \d+ after 2 retries with a lower learning rate; the last "
        r"checkpoint is kept; .*raise train\.on_divergence\.retries.*",
        str(recorder.ended_by),
    )
    assert set(recorder.tags) == {"cyclegan.diverged.1", "cyclegan.diverged.2", "cyclegan.diverged"}
    assert len(progress.rollbacks) == 2
    fresh = make_model(pool_size=2)
    fresh.compile()
    assert Progress.restore(CheckpointFolder(tmp_path), fresh).step <= 2
    assert all(np.isfinite(variable.numpy()).all() for variable in fresh.state().values())


@pytest.mark.slow
def test_a_state_that_was_bad_already_is_gone_back_behind(make_model: Make, tmp_path: Path) -> None:
    """Weights can be finite and lost: the same state twice is one time too many."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2)
    model.compile(schedule=DecaySchedule(1e-3, DIVERGING.total_steps, 0.5, "constant"))
    poisoned: list[int] = []

    def validate() -> dict[str, float]:
        if int(model.step.numpy()) == 8 and not poisoned:
            poisoned.append(8)
            weight = model.D_A.trainable_variables[0]
            weight.assign(np.full(weight.shape, 3e38, np.float32))
        return {"val": 1.0}

    progress, recorder = Progress(), Recorder()
    train(
        model, Slow(0.0), DIVERGING, progress, CheckpointFolder(tmp_path, keep=1), recorder, validate, dict
    )  # fmt: skip
    assert [rollback["to"] for rollback in progress.rollbacks] == [8, 4]
    assert [row["step"] for row in progress.losses] == [2, 4, 6, 8, 10, 12]
    # One point for each step, of the path that was kept.
    for name in ("D_A/total", "training/learning_rate"):
        expected = [(row["step"], row[name.removeprefix("training/")]) for row in progress.losses]
        assert [(step, value) for step, key, value in recorder.points if key == name] == expected
    assert [step for step, key, _ in recorder.points if key == "val"] == [4, 8, 12]


def test_an_update_that_diverges_just_before_an_evaluation(make_model: Make, tmp_path: Path) -> None:
    """Every loss was finite, being measured before the update; the evaluation is not what tells."""
    model = make_model()
    model.compile()
    weight = model.G_AtoB.trainable_variables[0]

    def validate() -> dict[str, float]:
        raise AssertionError("an evaluation of nothing")

    recorder, plan = Poisoner(weight, np.nan, step=5), replace(PLAN, log_every=5, checkpoint_every=60.0)
    with pytest.raises(UserError, match=r"training diverged: G_AtoB/000 became NaN or infinite by step 5"):
        train(model, Slow(0.0), plan, Progress(), CheckpointFolder(tmp_path), recorder, validate, dict)
    assert recorder.tags == {"cyclegan.diverged": "G_AtoB/000 became NaN or infinite by step 5"}


def test_weights_that_are_not_finite_are_not_saved_though_every_loss_was(make_model: Make, tmp_path: Path) -> None:
    """The last update of a window is measured by none of its losses."""
    model = make_model()
    model.compile()
    weight = model.D_B.trainable_variables[0]
    recorder = Poisoner(weight, np.inf, step=20)
    with pytest.raises(UserError, match=r"training diverged: D_B/000 became NaN or infinite by step 20"):
        train(
            model, Slow(0.0), replace(LONG, checkpoint_every=0.0), Progress(),
            CheckpointFolder(tmp_path), recorder, dict, dict,
        )  # fmt: skip
    assert recorder.tags == {"cyclegan.diverged": "D_B/000 became NaN or infinite by step 20"}
    assert CheckpointFolder(tmp_path).progress()["step"] == 19


class Slow:
    """Batches that take a while each, so that a window is long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, step: int) -> tf.data.Dataset:
        def generate() -> Any:
            for number in itertools.count(step):
                time.sleep(self.seconds)
                image = np.random.default_rng(number).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
                yield image, -image

        spec = tf.TensorSpec((1, 16, 16, 3), tf.float32)
        return tf.data.Dataset.from_generator(generate, output_signature=(spec, spec))


def send_after(model: CycleGAN, step: int, number: int) -> None:
    """Send this process a signal as soon as the model has done so many steps."""

    def watch() -> None:
        while int(model.step.numpy()) < step:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


LONG = Plan(epochs=1, steps_per_epoch=40, batch_size=1, log_every=20, evaluate_every=1, checkpoint_every=60.0)


def windowed(make_model: Make, folder: Path, number: int = 0, **hooks: Any) -> tuple[Recorder, Progress]:
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2)
    model.compile(schedule=DecaySchedule(2e-3, LONG.total_steps, 0.5, "linear"))
    progress, recorder = Progress.restore(CheckpointFolder(folder), model), Recorder()
    hooks = {"validate": lambda: {"val": float(model.step.numpy())}, "samples": dict} | hooks
    try:
        if number:
            send_after(model, 22, number)
        train(model, Slow(0.03 if number else 0.0), LONG, progress, CheckpointFolder(folder), recorder, **hooks)
    except BaseException as error:
        recorder.ended_by = error
    return recorder, progress


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP))]
)
def test_a_signal_within_a_window_saves_that_very_step(make_model: Make, tmp_path: Path, number: int) -> None:
    """A window may last for minutes: the stop does not wait for its end, and no point changes by it."""
    whole, _ = windowed(make_model, tmp_path / "whole")
    first, _ = windowed(make_model, tmp_path / "parts", number)
    if number == signal.SIGINT:
        assert isinstance(first.ended_by, KeyboardInterrupt)
    else:
        assert isinstance(first.ended_by, SystemExit)
        assert first.ended_by.code == 128 + number
    saved = CheckpointFolder(tmp_path / "parts").progress()
    assert saved is not None
    assert saved["step"] > 20, "the step that was being done was to be the last"
    assert saved["step"] < 40
    assert saved["window_steps"] == saved["step"] - 20
    second, progress = windowed(make_model, tmp_path / "parts")
    assert timeless(first.points + second.points) == timeless(whole.points)
    assert [row["step"] for row in progress.losses] == [20, 40]


def test_a_signal_during_an_evaluation_interrupts_it_and_it_is_made_up_for(make_model: Make, tmp_path: Path) -> None:
    def validate() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError("was not interrupted")

    first, _ = windowed(make_model, tmp_path, validate=validate)
    assert isinstance(first.ended_by, SystemExit)
    assert CheckpointFolder(tmp_path).progress()["step"] == 40
    second, progress = windowed(make_model, tmp_path)
    assert [(step, name) for step, name, _ in second.points] == [(40, "val")]
    assert len(progress.validation) == 1

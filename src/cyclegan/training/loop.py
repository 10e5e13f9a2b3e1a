"""A whole training: `CycleGAN.fit` in windows, with logging, evaluation, checkpoints and a clean stop between them.

A window is `log_every` steps and, to Keras, one epoch: losses are averaged on the device over a window and leave it
once, and everything that may happen between steps happens between windows. A checkpoint always lies on that border, so
that a resumed training repeats no point of a series and leaves none out.
"""

from __future__ import annotations

import fcntl
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cyclegan.errors import UserError
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.plateau import Plateau

SECONDS_TO_STOP = 8.0
"""After a signal the running window may finish for this long; spot machines give 30 seconds, a shell user fewer."""

Row = dict[str, float]


class Listener(Protocol):
    """Who is told about the training: a tracker of experiments."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one value for each named series at a training step."""

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Record a picture, `[H, W, 3]` uint8, at a training step."""


@dataclass(frozen=True)
class Plan:
    """How long to train and what to do on the way.

    Attributes:
        epochs: passes over the larger domain.
        steps_per_epoch: training steps in a pass.
        batch_size: pictures of each domain in a step; only for the rate shown.
        log_every: steps between two points of a series.
        evaluate_every: epochs between two evaluations.
        checkpoint_every: minutes between two checkpoints.
        plateau: lowers the learning rate after evaluations without progress; None: never.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    log_every: int
    evaluate_every: int
    checkpoint_every: float
    plateau: Plateau | None = None

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass
class Progress:
    """What a run has recorded so far; saved with every checkpoint.

    Attributes:
        step: training steps done.
        losses: one row for each window: `step`, `epoch`, every loss, `learning_rate`.
        validation: one row for each evaluation: `step`, `epoch`, every validation figure.
        seconds: time spent training, over all resumptions.
        run_id: the tracker's name for the run, so that a resumed training continues it.
    """

    step: int = 0
    losses: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    run_id: str | None = None

    @classmethod
    def restore(cls, checkpoints: CheckpointFolder, model: CycleGAN) -> Progress:
        """Continue from the newest intact checkpoint, whose state goes into the model, or start at step 0."""
        saved = checkpoints.restore(model.state())
        return cls(**saved) if saved else cls()


def train(
    model: CycleGAN,
    batches: Callable[[int], tf.data.Dataset],
    plan: Plan,
    progress: Progress,
    checkpoints: CheckpointFolder,
    listener: Listener,
    validate: Callable[[], Mapping[str, float]],
    samples: Callable[[], Mapping[str, np.ndarray]],
) -> None:
    """Train a compiled model to the end of the plan.

    Args:
        model: with the state that belongs to `progress`.
        batches: makes the dataset that starts at a given step.
        plan, progress: how far to go, and how far it has gone; `progress` is brought up to date.
        checkpoints: where the state is kept.
        listener: is told of losses, validation figures and sample pictures.
        validate: measures the generators on the validation split.
        samples: translates some fixed validation pictures; `{name: [H, W, 3] uint8}`.

    Raises:
        UserError: a loss became infinite or NaN, or the validation lacks the figure that `plan.plateau` watches.
        SystemExit, KeyboardInterrupt: stopped by SIGTERM or SIGINT, after a checkpoint.
    """
    with stopping() as stop, tqdm(total=plan.total_steps, initial=progress.step, unit="step", mininterval=1) as bar:
        windows = _Windows(plan, progress, checkpoints, listener, validate, samples, stop, bar)
        windows.set_model(model)
        windows.catch_up()
        full, rest = divmod(plan.total_steps, plan.log_every)
        for until, size in ((full, plan.log_every), (full + 1, rest)):
            if size and progress.step < min(until * plan.log_every, plan.total_steps):
                model.fit(
                    batches(progress.step),
                    steps_per_epoch=size,
                    initial_epoch=progress.step // plan.log_every,
                    epochs=until,
                    callbacks=[windows],
                    shuffle=False,
                    verbose=0,
                )


class _Windows(keras.callbacks.Callback):
    """What happens after each window, in this order: log, stop, evaluate, save."""

    def __init__(
        self,
        plan: Plan,
        progress: Progress,
        checkpoints: CheckpointFolder,
        listener: Listener,
        validate: Callable[[], Mapping[str, float]],
        samples: Callable[[], Mapping[str, np.ndarray]],
        stop: StopRequest,
        bar: tqdm,
    ) -> None:
        super().__init__()
        self.plan, self.progress, self.checkpoints = plan, progress, checkpoints
        self.listener, self.validate, self.samples = listener, validate, samples
        self.stop, self.bar = stop, bar
        self.window_start = self.last_save = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.window_start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.monotonic() - self.window_start
        before = self.progress.step
        step = min((epoch + 1) * self.plan.log_every, self.plan.total_steps)
        losses = {name: float(value) for name, value in (logs or {}).items()}
        _refuse_divergence(losses, step)
        self.progress.step = step
        self.progress.seconds += seconds
        self._log(losses, step, step - before, seconds)
        # There may be little time: an evaluation that is due is made up for by the resumed training.
        self._leave_if_asked()
        self._evaluate_if_due()
        self._leave_if_asked()
        if step == self.plan.total_steps or time.monotonic() - self.last_save > 60 * self.plan.checkpoint_every:
            self._save()

    def catch_up(self) -> None:
        """Make up for an evaluation that a stop has cut off."""
        if self.progress.step and self._evaluate_if_due():
            self._save()

    def _leave_if_asked(self) -> None:
        if self.stop.signal:
            # The border is reached: the alarm must not cut the checkpoint off.
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._save()
            self.stop.leave()

    def _save(self) -> None:
        self.checkpoints.save(self.progress.step, self.model.state(), asdict(self.progress))
        self.last_save = time.monotonic()

    def _log(self, losses: Row, step: int, steps: int, seconds: float) -> None:
        epoch = step / self.plan.steps_per_epoch
        rate = float(next(iter(self.model.optimizers.values())).learning_rate)
        self.progress.losses.append({"step": step, "epoch": epoch, **losses, "learning_rate": rate})
        images_per_second = steps * self.plan.batch_size / seconds
        self.listener.log_metrics(
            step,
            {
                **losses,
                "training/learning_rate": rate,
                "training/epoch": epoch,
                "training/images_per_second": images_per_second,
                "training/seconds_per_epoch": seconds / steps * self.plan.steps_per_epoch,
            },
        )
        self.bar.set_description(f"epoch {min(math.ceil(epoch), self.plan.epochs)}/{self.plan.epochs}", refresh=False)
        self.bar.set_postfix_str(
            f"{images_per_second:.1f} images/s, G {losses['G_AtoB/total']:.2f}/{losses['G_BtoA/total']:.2f}, "
            f"D {losses['D_A/total']:.3f}/{losses['D_B/total']:.3f}",
            refresh=False,
        )
        self.bar.update(steps)

    def _evaluate_if_due(self) -> bool:
        """Evaluate once `evaluate_every` epochs have passed since the last time, and at the end."""
        step, interval = self.progress.step, self.plan.evaluate_every * self.plan.steps_per_epoch
        last = self.progress.validation[-1]["step"] if self.progress.validation else 0
        due = step // interval > last // interval or (step == self.plan.total_steps and step != last)
        if due:
            self._evaluate(step)
        return due

    def _evaluate(self, step: int) -> None:
        figures = dict(self.validate())
        self.progress.validation.append({"step": step, "epoch": step / self.plan.steps_per_epoch, **figures})
        if self.plan.plateau is not None:
            self.plan.plateau.require(figures)
            factor = self.plan.plateau.learning_rate_factor(self.progress.validation)
            self.model.learning_rate_factor.assign(factor)
        self.listener.log_metrics(step, figures)
        for key, image in self.samples().items():
            self.listener.log_image(step, key, image)


@dataclass
class StopRequest:
    """A signal that asks the training to stop, once it has come."""

    signal: int = 0

    def leave(self) -> None:
        """Raise what the signal stands for: KeyboardInterrupt, or SystemExit with the shell's code for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request to stop at the next border between windows.

    A second signal, or a window that lasts longer than `SECONDS_TO_STOP`, stops at once; the state is then that of the
    last checkpoint.
    """
    stop = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.signal:
            stop.leave()
        stop.signal = number
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_STOP)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        stop.leave()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, give_up)
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_trainer(folder: Path) -> Iterator[None]:
    """Hold a run's lock, which the system releases even when the process is killed.

    Raises:
        UserError: another process trains this run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process trains this run (lock: {file.name}); wait for it or end it") from None
        yield


def _refuse_divergence(losses: Row, step: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise UserError(
                f"training diverged: {name} became {value} by step {step}; the last checkpoint is kept. "
                "Lower train.learning_rate or set train.gradient_clip_norm, which starts a new training"
            )

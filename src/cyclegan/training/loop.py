"""A whole training: windows of steps, with logging, evaluation, checkpoints and a clean stop between them.

A window ends at every multiple of `log_every` and where an evaluation is due: losses are averaged on the device over a
window and leave it once, and everything that is recorded is recorded between windows. A checkpoint may lie inside a
window, between two calls of the device: it holds the window's running means, so that a resumed training repeats no
point of a series, leaves none out and alters none.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields
from typing import Protocol

import numpy as np
from tqdm import tqdm

from cyclegan.system.errors import UserError
from cyclegan.system.signals import Stopped, StopRequest, stopping
from cyclegan.training.checkpoint import CheckpointFolder, NotFiniteError, refuse_not_finite
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.dispatch import Batch, Dispatcher
from cyclegan.training.divergence import DivergedError, refuse_divergence
from cyclegan.training.progress import Plan, Progress, Row, good_states, logged_losses

DIVERGED_TAG = "cyclegan.diverged"


class Listener(Protocol):
    """Who is told about the training: a tracker of experiments."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one value for each named series at a training step."""

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Record a picture, `[H, W, 3]` uint8, at a training step."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Note something about the training as a whole."""


def train(
    model: CycleGAN,
    batches: Callable[[int], Iterable[Batch]],
    plan: Plan,
    progress: Progress,
    checkpoints: CheckpointFolder,
    listener: Listener,
    validate: Callable[[], Mapping[str, float]],
    samples: Callable[[], Mapping[str, np.ndarray]],
) -> None:
    """Train a compiled model to the end of the plan, or until its selection gives up.

    Args:
        model: with the state that belongs to `progress`; with `plan.selection` made to keep generators.
        batches: makes the data set that starts at a given step.
        plan, progress: how far to go, and how far it has gone; `progress` is brought up to date.
        checkpoints: where the state is kept.
        listener: is told of losses, validation figures and sample pictures. With `plan.on_divergence` it is told at
            each evaluation what was before the last one: it never hears of steps that are gone back on. (Their sample
            pictures it has seen.)
        validate: measures the generators on the validation split.
        samples: translates some fixed validation pictures; `{name: [H, W, 3] uint8}`.

    Raises:
        UserError: a loss or a weight became infinite or NaN, or the validation lacks a figure that `plan.plateau` or
            `plan.selection` watches.
        ValueError: `plan.on_divergence` is to lower the rate of a model that has no schedule.
        SystemExit, KeyboardInterrupt: stopped by SIGTERM or SIGINT, after a checkpoint.
    """
    if plan.on_divergence.retries and model.schedule is None:
        raise ValueError("on_divergence lowers the rate of a schedule: compile the model with one")
    with stopping() as stop, tqdm(total=plan.total_steps, initial=progress.step, unit="step", mininterval=1) as bar:
        windows = _Windows(model, batches, plan, progress, checkpoints, listener, validate, samples, stop, bar)
        try:
            while not windows.reach_end():
                pass
        except Stopped:
            # Of a state that is no good, the resumed training says so.
            with suppress(DivergedError):
                windows.save_and_tell()
            stop.leave()


class _Windows:
    """The windows of a training, and what happens after each, in this order: log, stop, evaluate, save."""

    def __init__(
        self,
        model: CycleGAN,
        batches: Callable[[int], Iterable[Batch]],
        plan: Plan,
        progress: Progress,
        checkpoints: CheckpointFolder,
        listener: Listener,
        validate: Callable[[], Mapping[str, float]],
        samples: Callable[[], Mapping[str, np.ndarray]],
        stop: StopRequest,
        bar: tqdm,
    ) -> None:
        self.model, self.batches = model, batches
        self.plan, self.progress, self.checkpoints = plan, progress, checkpoints
        self.listener, self.validate, self.samples = listener, validate, samples
        self.stop, self.bar = stop, bar
        self.good = good_states(checkpoints)
        self.saved_step, self.last_save = progress.step, time.monotonic()
        self.dispatcher, self.graph_is_built = Dispatcher(model), False

    def reach_end(self) -> bool:
        """Train up to the end of the plan; False if the training went back to a checkpoint instead."""
        try:
            self.catch_up()
            batches = iter(self.batches(self.progress.step))
            while not self.is_over():
                self.train_window(batches)
                self.end_window()
            self._tell()
        except DivergedError as error:
            self.go_back(error)
            return False
        return True

    def train_window(self, batches: Iterator[Batch]) -> None:
        """Train up to the end of a window, which a checkpoint may have cut in two."""
        progress = self.progress
        if not progress.window_steps:
            self.model.reset_metrics()
        end = self.plan.end_of_window(progress.step)
        while progress.step < end:
            self._leave_if_asked()
            if self._until_checkpoint() < 0:
                self.save_if_new()
            if not self.graph_is_built:
                self.bar.set_description("building the training step, which takes a while")
            # There is nothing to lose yet.
            with nullcontext() if self.graph_is_built else self.stop.may_come_at_once():
                steps, seconds = self.dispatcher.advance(batches, end - progress.step, self._until_checkpoint())
            progress.step += steps
            progress.window_steps += steps
            progress.window_seconds += seconds
            progress.seconds += seconds
            if not self.graph_is_built:
                self.bar.set_description("training", refresh=False)
            self.graph_is_built = True
            self.bar.update(progress.step - self.bar.n)

    def end_window(self) -> None:
        """Record a whole window."""
        losses = self._losses()
        refuse_divergence(losses, self.progress.step)
        steps, seconds = self.progress.window_steps, self.progress.window_seconds
        self.progress.window_steps, self.progress.window_seconds = 0, 0.0
        self._log(losses, steps, seconds)
        # There may be little time: an evaluation that is due is made up for by the resumed training.
        self._leave_if_asked()
        self._evaluate_if_due()
        self._leave_if_asked()
        if self.is_over() or self._until_checkpoint() < 0:
            self._save()

    def catch_up(self) -> None:
        """Make up for an evaluation that a stop has cut off."""
        if self.plan.on_divergence.retries and not self.good.steps():
            self._save_good()
        if self.progress.step and not self.progress.window_steps and self._evaluate_if_due():
            self._save()

    def go_back(self, error: DivergedError) -> None:
        """Restore the last checkpoint and lower the learning rate.

        Raises:
            UserError: the training is not to go back, or not once more.
        """
        allowed = self.plan.on_divergence
        if len(self.progress.rollbacks) >= allowed.retries:
            self._tell()
            self.listener.set_tags({DIVERGED_TAG: str(error)})
            again = f", {allowed.retries} times again with a lower learning rate" if allowed.retries else ""
            raise UserError(
                f"training diverged: {error}{again}; the last checkpoint is kept. Lower train.learning_rate, set "
                f"train.gradient_clip_norm, or {'raise' if again else 'set'} train.on_divergence.retries, which "
                "starts a new training"
            )
        restored = self._restore_good()
        text = f"{error}: back to step {restored.step}, learning rate times {allowed.factor}"
        rollbacks = [*self.progress.rollbacks, {"to": restored.step, "why": text}]
        # What the state at hand has told already, the one gone back to may hold as untold.
        waiting = self.progress.untold[0][0] if self.progress.untold else 0
        restored.untold = [(step, row) for step, row in restored.untold if step >= waiting]
        run_id = self.progress.run_id
        for item in fields(Progress):
            setattr(self.progress, item.name, getattr(restored, item.name))
        self.progress.rollbacks, self.progress.run_id = rollbacks, run_id
        self.checkpoints.forget_from(self.progress.step + 1)
        self._lower_rate()
        self.listener.set_tags({f"{DIVERGED_TAG}.{len(self.progress.rollbacks)}": text})
        tqdm.write(f"training diverged: {text}", file=sys.stderr)
        self._save()
        self.bar.n = self.progress.step
        self.bar.refresh()

    def _restore_good(self) -> Progress:
        last = self.good.steps()[0]
        if self.progress.rollbacks and self.progress.rollbacks[-1]["to"] == last and len(self.good.steps()) > 1:
            self.good.forget_from(last)
        saved = self.good.restore(self.model.state())
        assert saved is not None, "the state at the start is good"
        return Progress(**saved)

    def save_if_new(self) -> None:
        """Save the state after the last call of the device, unless it has been saved."""
        if self.progress.step != self.saved_step:
            refuse_divergence(self._losses(), self.progress.step)
            self._save()

    def save_and_tell(self) -> None:
        """Save the state before leaving, and say from where the training will go on."""
        self.save_if_new()
        # A closed terminal takes no more text.
        with suppress(OSError):
            text = f"stopping; step {self.progress.step} is saved, the same command goes on from it"
            tqdm.write(text, file=sys.stderr)

    def is_over(self) -> bool:
        """Whether the plan is fulfilled, or gives up for want of a better evaluation."""
        selection, progress = self.plan.selection, self.progress
        exhausted = selection is not None and selection.is_exhausted(progress.validation)
        return exhausted or progress.step == self.plan.total_steps

    def _leave_if_asked(self) -> None:
        if self.stop.signal:
            self.save_and_tell()
            self.stop.leave()

    def _until_checkpoint(self) -> float:
        """Seconds until a checkpoint is due; negative when it is."""
        return self.last_save + 60 * self.plan.checkpoint_every - time.monotonic()

    def _losses(self) -> Row:
        """The means of all losses over the window so far."""
        return {name: float(value) for name, value in self.model.get_metrics_result().items()}

    def _save(self) -> None:
        self._save_to(self.checkpoints)
        self.saved_step, self.last_save = self.progress.step, time.monotonic()

    def _save_good(self) -> None:
        """Save a state to go back to."""
        self.good.forget_from(self.progress.step)
        self._save_to(self.good)
        self._save()

    def _save_to(self, folder: CheckpointFolder) -> None:
        with self._not_finite_is_divergence():
            folder.save(self.progress.step, self.model.state(), asdict(self.progress))

    @contextmanager
    def _not_finite_is_divergence(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            raise DivergedError(str(error), "NaN or infinite", self.progress.step) from None

    def _tell(self, until: float = math.inf) -> None:
        """Tell the listener all up to a step that it has not been told yet."""
        while self.progress.untold and self.progress.untold[0][0] <= until:
            self.listener.log_metrics(*self.progress.untold.pop(0))

    def _log(self, losses: Row, steps: int, seconds: float) -> None:
        step = self.progress.step
        epoch = step / self.plan.steps_per_epoch
        rate = float(next(iter(self.model.optimizers.values())).learning_rate)
        self.progress.losses.append({"step": step, "epoch": epoch, **losses, "learning_rate": rate})
        images_per_second = steps * self.plan.batch_size / seconds
        metrics = {
            **logged_losses(self.progress.losses[-1]),
            "training/images_per_second": images_per_second,
            "training/seconds_per_epoch": seconds / steps * self.plan.steps_per_epoch,
        }
        self.progress.untold.append((step, metrics))
        if not self.plan.on_divergence.retries:
            self._tell()
        self.bar.set_description(f"epoch {min(math.ceil(epoch), self.plan.epochs)}/{self.plan.epochs}", refresh=False)
        self.bar.set_postfix_str(
            f"{images_per_second:.1f} images/s, G {losses['G_AtoB/total']:.2f}/{losses['G_BtoA/total']:.2f}, "
            f"D {losses['D_A/total']:.3f}/{losses['D_B/total']:.3f}",
            refresh=False,
        )
        self.bar.update(step - self.bar.n)

    def _evaluate_if_due(self) -> bool:
        """Evaluate once `evaluate_every` epochs have passed since the last time, and at the end."""
        step, interval = self.progress.step, self.plan.evaluation_steps
        last = self.progress.validation[-1]["step"] if self.progress.validation else 0
        due = step // interval > last // interval or (step == self.plan.total_steps and step != last)
        if due:
            self._evaluate(step)
        return due

    def _evaluate(self, step: int) -> None:
        # The losses of a step are those before its update, which may have been the one that diverged.
        with self._not_finite_is_divergence():
            refuse_not_finite(self.model.state())
        with self.stop.may_come_at_once():
            figures = dict(self.validate())
            images = dict(self.samples())
        self.progress.validation.append({"step": step, "epoch": step / self.plan.steps_per_epoch, **figures})
        if self.plan.plateau is not None:
            self.plan.plateau.require(figures)
            self._lower_rate()
        if self.plan.selection is not None:
            self.plan.selection.require(figures)
            if self.plan.selection.best(self.progress.validation) == len(self.progress.validation) - 1:
                self.model.keep()
        self.progress.untold.append((step, figures))
        # With a state to go back to, what came after the one before it may still be gone back on.
        retries, before = self.plan.on_divergence.retries, self.progress.validation[-2:-1]
        self._tell(until=(before[0]["step"] if before else 0) if retries else math.inf)
        for key, image in images.items():
            self.listener.log_image(step, key, image)
        if retries:
            self._save_good()

    def _lower_rate(self) -> None:
        """Set the factor on the learning rate that follows from what has happened so far."""
        factor = self.plan.on_divergence.factor ** len(self.progress.rollbacks)
        if self.plan.plateau is not None:
            factor *= self.plan.plateau.learning_rate_factor(self.progress.validation)
        self.model.learning_rate_factor.assign(factor)

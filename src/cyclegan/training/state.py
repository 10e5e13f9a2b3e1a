"""The state of a training: a model, the record of its progress, and the checkpoints of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields

from cyclegan.training.checkpoint import CheckpointFolder, NotFiniteError, refuse_not_finite
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.divergence import DivergedError, refuse_divergence
from cyclegan.training.progress import Plan, Progress, Row


class TrainingState:
    """A model and the record of its training, which change together and are saved together.

    Args:
        model: a compiled model with the state that belongs to `progress`.
        plan: the plan of the training.
        progress: the record of the training, which is updated.
        checkpoints: the folder for both.
    """

    def __init__(self, model: CycleGAN, plan: Plan, progress: Progress, checkpoints: CheckpointFolder) -> None:
        self.model, self.plan, self.progress, self.checkpoints = model, plan, progress, checkpoints
        self._is_saved, self._last_save = True, time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the plan is complete, or `plan.selection` ends the training early."""
        selection, progress = self.plan.selection, self.progress
        is_exhausted = selection is not None and selection.is_exhausted(progress.validation)
        return is_exhausted or progress.step == self.plan.total_steps

    @property
    def evaluation_is_due(self) -> bool:
        """Whether `evaluate_every` epochs have passed since the last evaluation, or the last step lacks one."""
        step, interval = self.progress.step, self.plan.evaluation_steps
        last = self.progress.validation[-1]["step"] if self.progress.validation else 0
        return step // interval > last // interval or (step == self.plan.total_steps and step != last)

    @property
    def seconds_until_checkpoint(self) -> float:
        """Seconds until the next checkpoint; negative if it is due."""
        return self._last_save + 60 * self.plan.checkpoint_every - time.monotonic()

    def window_losses(self) -> Row:
        """The means of all losses over the steps of the current window."""
        return {name: float(value) for name, value in self.model.get_metrics_result().items()}

    def add_steps(self, steps: int, seconds: float) -> None:
        """Add finished training steps to the record."""
        self.progress.step += steps
        self.progress.window_steps += steps
        self.progress.window_seconds += seconds
        self.progress.seconds += seconds
        self._is_saved = False

    def add_losses(self, row: Row) -> tuple[int, float]:
        """End the window with a row of losses; returns the number of its steps and their duration in seconds."""
        self.progress.losses.append(row)
        window = self.progress.window_steps, self.progress.window_seconds
        self.progress.window_steps, self.progress.window_seconds = 0, 0.0
        self._is_saved = False
        return window

    def add_validation(self, metrics: Row) -> None:
        """Record an evaluation, and update the learning rate and the kept generators accordingly."""
        step = self.progress.step
        self.progress.validation.append({"step": step, "epoch": step / self.plan.steps_per_epoch, **metrics})
        if self.plan.plateau is not None:
            self.plan.plateau.require(metrics)
            self.set_learning_rate_factor()
        if self.plan.selection is not None:
            self.plan.selection.require(metrics)
            if self.plan.selection.best(self.progress.validation) == len(self.progress.validation) - 1:
                self.model.keep()
        self._is_saved = False

    def set_learning_rate_factor(self) -> None:
        """Set the factor of the learning rate according to the rewinds and evaluations so far."""
        factor = self.plan.on_divergence.factor ** len(self.progress.rollbacks)
        if self.plan.plateau is not None:
            factor *= self.plan.plateau.learning_rate_factor(self.progress.validation)
        self.model.learning_rate_factor.assign(factor)

    def replace_progress(self, progress: Progress) -> None:
        """Copy another record into the current object."""
        for item in fields(Progress):
            setattr(self.progress, item.name, getattr(progress, item.name))
        self._is_saved = False

    def refuse_not_finite(self) -> None:
        """Check that all variables are finite.

        Raises:
            DivergedError: one is not.
        """
        with self._raise_as_divergence():
            refuse_not_finite(self.model.state())

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            DivergedError: a variable is NaN or infinite; no file is written.
        """
        self.save_to(self.checkpoints)
        self._is_saved, self._last_save = True, time.monotonic()

    def save_if_changed(self) -> None:
        """Write a checkpoint if the state has changed since the last one.

        Raises:
            DivergedError: a loss or a variable is NaN or infinite; no file is written.
        """
        if not self._is_saved:
            refuse_divergence(self.window_losses(), self.progress.step)
            self.save()

    def save_if_due(self) -> None:
        """Write a checkpoint at the end, and if `checkpoint_every` minutes have passed since the last one.

        Raises:
            DivergedError: a loss or a variable is NaN or infinite; no file is written.
        """
        if self.is_over or self.seconds_until_checkpoint < 0:
            self.save_if_changed()

    def save_to(self, folder: CheckpointFolder) -> None:
        """Write the state into another folder.

        Raises:
            DivergedError: a variable is NaN or infinite; no file is written.
        """
        with self._raise_as_divergence():
            folder.save(self.progress.step, self.model.state(), asdict(self.progress))

    @contextmanager
    def _raise_as_divergence(self) -> Iterator[None]:
        try:
            yield
        except NotFiniteError as error:
            raise DivergedError(str(error), "NaN or infinite", self.progress.step) from None

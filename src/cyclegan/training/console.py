"""Console output of a training: a progress bar on a terminal, elsewhere one line for each evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from tqdm import tqdm

from cyclegan.training.progress import Plan, Progress

BUILDING = "building the training step, which takes a while"


class Console:
    """The progress of a training on stderr.

    Args:
        plan: the plan of the training.
        progress: the record of the training, read at every output.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=plan.total_steps, initial=progress.step, unit="step", mininterval=1, disable=not self._is_terminal
        )
        self._start, self._first_step = time.monotonic(), progress.step
        self._is_building = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        # Writing to a closed terminal fails.
        with suppress(OSError):
            tqdm.write(line, file=sys.stderr)

    def show_building(self, is_building: bool) -> None:
        """Show whether the first call of the device is building the graph."""
        if is_building == self._is_building:
            return
        self._is_building = is_building
        self._bar.set_description(BUILDING if is_building else "training", refresh=is_building)
        if is_building and not self._is_terminal:
            self.print(BUILDING)

    def show_step(self) -> None:
        """Move the bar to the current step."""
        self._bar.n = self._progress.step
        self._bar.update(0)

    def show_losses(self, losses: Mapping[str, float], images_per_second: float) -> None:
        """Show the losses of a window beside the bar."""
        self._bar.set_description(f"epoch {self._epoch}/{self._plan.epochs}", refresh=False)
        self._bar.set_postfix_str(
            f"{images_per_second:.1f} images/s, G {losses['G_AtoB/total']:.2f}/{losses['G_BtoA/total']:.2f}, "
            f"D {losses['D_A/total']:.3f}/{losses['D_B/total']:.3f}",
            refresh=False,
        )
        self.show_step()

    def show_validation(self, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation."""
        step, total = self._progress.step, self._plan.total_steps
        done = step - self._first_step
        left = (time.monotonic() - self._start) / done * (total - step) if done else 0.0
        values = ", ".join(f"{name.removeprefix('val_')} {value:.4g}" for name, value in sorted(metrics.items()))
        rest = f", {_duration(left)} left" if step < total and done else ""
        self.print(f"epoch {self._epoch}/{self._plan.epochs}, step {step}/{total}{rest}: {values}")

    @property
    def _epoch(self) -> int:
        return min(math.ceil(self._progress.step / self._plan.steps_per_epoch), self._plan.epochs)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

"""How far a training is to go, and how far it has gone: what is planned, and what has been recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.divergence import NEVER, Retries
from cyclegan.training.plateau import Plateau
from cyclegan.training.selection import Selection

GOOD_STATES = 2
"""States that a diverged training can go back to: where it goes must not depend on how many checkpoints are kept."""

Row = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long to train and what to do on the way.

    Attributes:
        epochs: passes over the larger domain.
        steps_per_epoch: training steps in a pass.
        batch_size: images of each domain in a step; only for the rate shown.
        log_every: steps between two points of a series.
        evaluate_every: epochs between two evaluations.
        checkpoint_every: minutes between two checkpoints.
        plateau: lowers the learning rate after evaluations without progress; None: never.
        on_divergence: whether to try again with a lower learning rate.
        selection: whose generators are kept, and when to end early; None: the last ones, and never.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    log_every: int
    evaluate_every: int
    checkpoint_every: float
    plateau: Plateau | None = None
    on_divergence: Retries = NEVER
    selection: Selection | None = None

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def evaluation_steps(self) -> int:
        """Steps between two evaluations."""
        return self.evaluate_every * self.steps_per_epoch

    def end_of_window(self, step: int) -> int:
        """Where the window ends that the step after `step` belongs to."""
        ends = ((step // every + 1) * every for every in (self.log_every, self.evaluation_steps))
        return min(*ends, self.total_steps)


@dataclass
class Progress:
    """What a run has recorded so far; saved with every checkpoint.

    Attributes:
        step: training steps done.
        window_steps: those of them that belong to a window that has not ended.
        window_seconds: how long those took.
        losses: one row for each window: `step`, `epoch`, every loss, `learning_rate`.
        validation: one row for each evaluation: `step`, `epoch`, every validation metric.
        unlogged: `[step, metrics]` that the listener has not heard of yet; see `rewind`.
        rollbacks: for each time that the training went back after diverging: `why`, and `to` which step.
        seconds: time spent training, over all resumptions.
        run_id: the tracker's name for the run, so that a resumed training continues it.
    """

    step: int = 0
    window_steps: int = 0
    window_seconds: float = 0.0
    losses: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    unlogged: list[tuple[int, Row]] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    run_id: str | None = None

    @classmethod
    def restore(cls, checkpoints: CheckpointFolder, model: CycleGAN) -> Progress:
        """Continue from the newest intact checkpoint, whose state goes into the model, or start at step 0."""
        # The process may have been killed between dropping the states of a diverged training and writing a new one.
        saved = checkpoints.restore(model.state()) or good_states(checkpoints).restore(model.state())
        return cls(**saved) if saved else cls()


def good_states(checkpoints: CheckpointFolder) -> CheckpointFolder:
    """The states that a diverged training goes back to."""
    return CheckpointFolder(checkpoints.path / "good", GOOD_STATES)


def logged_losses(row: Row) -> Row:
    """The series of a row of `Progress.losses`, by the names under which they are logged."""
    return {
        **{name: value for name, value in row.items() if "/" in name},
        "training/learning_rate": row["learning_rate"],
        "training/epoch": row["epoch"],
    }

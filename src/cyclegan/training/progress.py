"""The plan of a training, and the record of its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.divergence import NEVER, Retries
from cyclegan.training.plateau import Plateau
from cyclegan.training.selection import Selection

# Number of states for rewinding a diverged training. It does not depend on the number of checkpoints kept.
GOOD_STATES = 2

Row = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The length of a training, and its intervals and rules.

    Attributes:
        epochs: passes over the larger domain.
        steps_per_epoch: training steps in a pass.
        batch_size: images of each domain in a step; only for the logged rate.
        log_every: steps between two points of a series.
        evaluate_every: epochs between two evaluations.
        checkpoint_every: minutes between two checkpoints.
        plateau: rule that lowers the learning rate; None: it is never lowered.
        on_divergence: retries with a lower learning rate.
        selection: rule that chooses the kept generators and ends the training early. None: keep the last generators
            and never end early.
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
        """The last step of the window that contains the step after `step`."""
        ends = ((step // every + 1) * every for every in (self.log_every, self.evaluation_steps))
        return min(*ends, self.total_steps)


@dataclass
class Progress:
    """The record of a run so far, which every checkpoint holds.

    Attributes:
        step: training steps done.
        window_steps: steps done in the current window.
        window_seconds: duration of these steps.
        losses: one row for each window: `step`, `epoch`, every loss, `learning_rate`.
        validation: one row for each evaluation: `step`, `epoch`, every validation metric.
        unlogged: `[step, metrics]` that the listener has not received yet; see `rewind`.
        rollbacks: one entry for each rewind after a divergence: the reason `why`, and the step `to` which it went.
        seconds: training time, over all resumptions.
        run_id: the tracker's ID of the run, with which a resumed training continues it.
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
        """Load the newest intact checkpoint into the model and return its record, or a new record at step 0."""
        # A process may be killed after it removed the states of a diverged training and before it wrote a new one.
        saved = checkpoints.restore(model.state()) or good_states(checkpoints).restore(model.state())
        return cls(**saved) if saved else cls()


def good_states(checkpoints: CheckpointFolder) -> CheckpointFolder:
    """The folder of states for rewinding a diverged training."""
    return CheckpointFolder(checkpoints.path / "good", GOOD_STATES)


def logged_losses(row: Row) -> Row:
    """The values of a row of `Progress.losses` by the names of their logged series."""
    return {
        **{name: value for name, value in row.items() if "/" in name},
        "training/learning_rate": row["learning_rate"],
        "training/epoch": row["epoch"],
    }

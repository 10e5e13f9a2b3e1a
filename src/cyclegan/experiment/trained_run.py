"""The training that stage `train` has finished: what `run.json` records of it, and its MLflow run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from cyclegan.experiment.stage_outputs import opened_store, read_report
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.system.files import write_json
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, waiting
from cyclegan.tracking.store_errors import require_store


@dataclass(frozen=True)
class TrainedRun:
    """What `reports/train/run.json` holds, key by key.

    Attributes:
        run_id: of the MLflow run.
        experiment: its MLflow experiment.
        dataset: name of the data.
        run_key: of all that shapes the weights.
        steps, epochs: that the training made, and that it was planned for.
        kept: the evaluation whose generators it resulted in; the fields of `session.Kept`.
        adversarial_loss: `train.adversarial_loss`.
        seconds: that the training took.
        device: name of the device.
        data_md5: of the packed data.
        search: which hyperparameters a search chose (`replaced`), and where they come from (`origin`).
    """

    run_id: str
    experiment: str
    dataset: str
    run_key: str
    steps: int
    epochs: int
    kept: Mapping[str, Any]
    adversarial_loss: str
    seconds: float
    device: str
    data_md5: str
    search: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, project: Project) -> TrainedRun:
        """Read what stage `train` wrote.

        Raises:
            UserError: it has not run, or the file is corrupt.
        """
        required = {key.name for key in fields(cls) if key.default_factory is MISSING}
        found = read_report(_file(project), required, "train")
        return cls(**{key.name: found[key.name] for key in fields(cls) if key.name in found})

    def save(self, project: Project) -> None:
        """Write it for the later stages."""
        write_json(_file(project), vars(self))

    def attach(self, store: Store) -> TrackedRun:
        """Open the MLflow run for what later stages add to it.

        Raises:
            UserError: the store became unavailable.
        """
        with require_store(store):
            return TrackedRun.attach(store, **self._known)

    @contextmanager
    def attached(self, project: Project, tracking: Tracking) -> Iterator[TrackedRun]:
        """Open the MLflow run for what later stages add to it; with `tracking.offline` its journal.

        The store is opened at once, so that one that is unavailable is reported before any work.

        Raises:
            UserError: the store cannot be used, then or later, or another process writes to the journal.
        """
        if tracking.offline:
            with TrackedRun.attach_offline(waiting(project), **self._known) as tracked:
                yield tracked
        else:
            yield self.attach(opened_store(project, tracking))

    @property
    def _known(self) -> dict[str, str]:
        """The MLflow run, and how it is named where the store has lost it."""
        name = run_name(self.dataset, self.run_key)
        return {"run_id": self.run_id, "experiment": self.experiment, "name": name}


def run_name(dataset: str, run_key: str) -> str:
    """The name of a training's MLflow run."""
    return f"{dataset}-{run_key[:8]}"


def _file(project: Project) -> Path:
    return project.reports / "train" / "run.json"

"""The finished training of stage `train`: its record `run.json`, and its MLflow run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from cyclegan.domains import DomainNames
from cyclegan.experiment.stage_outputs import open_store_and_deliver, read_report
from cyclegan.params import Params, Tracking
from cyclegan.project import Project
from cyclegan.system.files import write_json
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, journals_folder
from cyclegan.tracking.store_errors import require_store


@dataclass(frozen=True)
class TrainedRun:
    """The content of `reports/train/run.json`.

    Attributes:
        run_id: of the MLflow run.
        experiment: its MLflow experiment.
        dataset: name of the data.
        run_key: digest of everything that shapes the weights.
        steps: number of completed steps.
        epochs: number of planned epochs.
        kept: the evaluation whose generators are the result; the attributes of `session.Kept`.
        adversarial_loss: `train.adversarial_loss`.
        seconds: duration of the training.
        device: name of the device.
        data_md5: MD5 of the packed data.
        search: the hyperparameters from a search (`replaced`) and their origin (`origin`).
        images: number of training images of each domain; empty in a record of an earlier version.
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
    images: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, project: Project) -> TrainedRun:
        """Read the file of stage `train`.

        Raises:
            UserError: the file is missing or corrupt.
        """
        required = {key.name for key in fields(cls) if key.default_factory is MISSING}
        report = read_report(_file(project), required, "train")
        return cls(**{key.name: report[key.name] for key in fields(cls) if key.name in report})

    def save(self, project: Project) -> None:
        """Write the file for later stages."""
        write_json(_file(project), vars(self))

    def attach(self, store: Store) -> TrackedRun:
        """Open the MLflow run for the logs of later stages.

        Raises:
            UserError: the store became unavailable.
        """
        with require_store(store):
            return TrackedRun.attach(store, **self._identity)

    @contextmanager
    def attached(self, project: Project, tracking: Tracking) -> Iterator[TrackedRun]:
        """Open the MLflow run, or its journal with `tracking.offline`, for the logs of later stages.

        The store is opened first, so that an unavailable store is reported before any work.

        Raises:
            UserError: the store cannot be used or becomes unavailable, or another process writes to the journal.
        """
        if tracking.offline:
            with TrackedRun.attach_offline(journals_folder(project), **self._identity) as tracked:
                yield tracked
        else:
            yield self.attach(open_store_and_deliver(project, tracking))

    @property
    def _identity(self) -> dict[str, str]:
        """ID of the MLflow run, and the experiment and name of a new run if the store has lost it."""
        name = f"{self.dataset} {self.run_key[:8]}"
        return {"run_id": self.run_id, "experiment": self.experiment, "name": name}


def new_run_name(params: Params) -> str:
    """The name of a new training's MLflow run: domains, or data set, time and experiment: `flat-3D 11-30 14:05 wide`.

    Outside a DVC experiment, the generator stands for its name.
    """
    names = params.data.domain_names
    domains = params.data.dataset if names == DomainNames() else f"{names.A}-{names.B}"
    return f"{domains} {time.strftime('%m-%d %H:%M')} {os.environ.get('DVC_EXP_NAME') or params.model.generator}"


def _file(project: Project) -> Path:
    return project.reports / "train" / "run.json"

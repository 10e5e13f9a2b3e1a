"""What every training needs around its session: device, feature network, lock and MLflow run.

Stage `train` and the trials of a search share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.experiment.session import Session
from cyclegan.params import Params, flatten
from cyclegan.project import Project
from cyclegan.system.locks import only_process
from cyclegan.tracking.description import DatasetInput
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.recovery import close_stale_runs
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, waiting
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.device import prepare_device


@dataclass(frozen=True)
class TrainingSetup:
    """A training before its networks are built.

    Attributes:
        params: that it is trained with.
        data_md5: of the packed data, for the record.
        store: that its run goes to; None: to the journal only, as with `tracking.offline`.
        experiment: name of its MLflow experiment.
        device: name of the device.
        features: the network by whose metrics generators are chosen.
    """

    project: Project
    params: Params
    dataset: PackedDataset
    data_md5: str
    store: Store | None
    experiment: str
    device: str
    features: FeatureNetwork

    @classmethod
    def prepare(
        cls,
        project: Project,
        params: Params,
        dataset: PackedDataset,
        *,
        data_md5: str,
        store: Store | None,
        experiment: str,
    ) -> TrainingSetup:
        """Seed everything, prepare the device and load the feature network.

        Raises:
            UserError: the feature network cannot be loaded.
        """
        device = prepare_device(params.train.seed, params.train.deterministic)
        features = load_features(project.root / params.evaluate.features, params.evaluate.features_size)
        return cls(project, params, dataset, data_md5, store, experiment, device, features)

    @contextmanager
    def claimed(self, checkpoints: CheckpointFolder, does: str, wait: float) -> Iterator[None]:
        """Keep other processes from a training's checkpoints, and close the MLflow runs of those that were killed.

        Args:
            does: what only one process may do at a time, such as `trains this run`.
            wait: seconds to wait for another process, which may be about to end.

        Raises:
            UserError: another process still holds the checkpoints.
        """
        with only_process(checkpoints.path / "lock", does, wait=wait):
            if self.store is not None:
                close_stale_runs(self.store, self.experiment)
            yield

    def session(self, checkpoints: CheckpointFolder) -> Session:
        """Build the networks, restored where there is a checkpoint; see `Session.prepare`."""
        return Session.prepare(self.params, self.dataset, checkpoints, self.features)

    def tracked_run(
        self, session: Session, name: str, further_tags: Mapping[str, str]
    ) -> AbstractContextManager[TrackedRun]:
        """Open the training's MLflow run, or the one that an interrupted training continues.

        Args:
            name: of a new run.
            further_tags: beside those of code, machine and device.
        """
        if self.store is None:
            opened = partial(TrackedRun.offline, waiting(self.project))
        else:
            opened = partial(TrackedRun.start, self.store)
        data = self.params.data
        return opened(
            experiment=self.experiment,
            name=name,
            params=recorded_params(self.params),
            tags={**tags(self.project), "device": self.device, **further_tags},
            inputs=[DatasetInput(data.dataset, self.data_md5, data.recorded_source, "training")],
            resume=session.earlier_run,
        )


def recorded_params(params: Params) -> dict[str, Any]:
    """What an MLflow run of a training lists as its parameters."""
    recorded = dict(flatten(params.model_dump(exclude={"search", "registry", "tracking"})))
    return recorded | {"data.source": params.data.recorded_source}

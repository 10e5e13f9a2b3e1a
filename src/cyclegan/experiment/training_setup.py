"""The setup of a training: device, feature network, lock and MLflow run.

Stage `train` and the trials of a search share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.experiment.devices import choose_strategy
from cyclegan.experiment.session import Session
from cyclegan.params import Params, flatten
from cyclegan.project import Project
from cyclegan.system.hosts import Hosts
from cyclegan.system.locks import only_process
from cyclegan.tracking.description import DatasetInput
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.recovery import close_stale_runs
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, journals_folder
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.device import prepare_device


@dataclass(frozen=True)
class TrainingSetup:
    """A training before its networks are built.

    Attributes:
        params: of the training.
        data_md5: MD5 of the packed data, which MLflow records.
        store: the MLflow store of its run; None with `tracking.offline`: the run has only a journal.
        experiment: name of its MLflow experiment.
        device: name of the device.
        strategy: the devices that train together; the default strategy of TensorFlow for one device.
        features: the network whose metrics select the generators.
    """

    project: Project
    params: Params
    dataset: PackedDataset
    data_md5: str
    store: Store | None
    experiment: str
    device: str
    strategy: tf.distribute.Strategy
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
        hosts: Hosts | None = None,
    ) -> TrainingSetup:
        """Seed everything, prepare the devices and load the feature network.

        Args:
            hosts: those that train together; None: only this one.

        Raises:
            UserError: there are fewer devices than `train.devices`, or the feature network cannot be loaded.
        """
        device = prepare_device(params.train.seed, params.train.deterministic)
        strategy = choose_strategy(params, hosts)
        features = load_features(project.root / params.evaluate.features, params.evaluate.features_size)
        return cls(project, params, dataset, data_md5, store, experiment, device, strategy, features)

    @contextmanager
    def claimed(self, checkpoints: CheckpointFolder, does: str, wait: float) -> Iterator[None]:
        """Lock a training's checkpoints against other processes, and close the MLflow runs of killed trainings.

        Args:
            does: the activity in the error message, such as `trains this run`.
            wait: seconds to wait for another process, which may be about to end.

        Raises:
            UserError: another process still holds the checkpoints.
        """
        with only_process(checkpoints.path / "lock", does, wait=wait):
            if self.store is not None:
                close_stale_runs(self.store, self.experiment)
            yield

    def session(self, checkpoints: CheckpointFolder) -> Session:
        """Build the networks, and load the newest checkpoint if there is one; see `Session.prepare`."""
        return Session.prepare(self.params, self.dataset, checkpoints, self.features, self.strategy)

    def tracked_run(
        self, session: Session, name: str, further_tags: Mapping[str, str]
    ) -> AbstractContextManager[TrackedRun]:
        """Open a new MLflow run, or the one of the interrupted training that this one resumes.

        Args:
            name: of a new run.
            further_tags: added to those of code, machine and device.
        """
        if self.store is None:
            open_run = partial(TrackedRun.offline, journals_folder(self.project))
        else:
            open_run = partial(TrackedRun.start, self.store)
        data = self.params.data
        return open_run(
            experiment=self.experiment,
            name=name,
            params=recorded_params(self.params),
            tags={
                **tags(self.project),
                "device": self.device,
                "devices": str(self.strategy.num_replicas_in_sync),
                **further_tags,
            },
            inputs=[DatasetInput(data.dataset, self.data_md5, data.recorded_source, "training")],
            resume=session.run_to_resume,
        )


def recorded_params(params: Params) -> dict[str, Any]:
    """The parameters that a training's MLflow run records."""
    recorded = dict(flatten(params.model_dump(exclude={"search", "registry", "tracking"})))
    return recorded | {"data.source": params.data.recorded_source}

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
from cyclegan.experiment.initial_networks import InitialNetwork, find_initial_networks, initial_tags
from cyclegan.experiment.networks import with_precision
from cyclegan.experiment.session import Session
from cyclegan.params import Params, flatten
from cyclegan.params.yaml_text import yaml_text
from cyclegan.project import Project
from cyclegan.system.credentials import without_credentials
from cyclegan.system.locks import only_process
from cyclegan.tracking.description import DatasetInput
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.recovery import close_stale_runs
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, journals_folder
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.device import prepare_device

# Every run records these parameters, also where they have their default, so that runs can be filtered by them.
MAIN_PARAMS = (
    "data.load_size", "model.generator", "model.base_filters", "model.blocks", "model.norm", "model.upsample",
    "model.residual_output", "train.adversarial_loss", "train.batch_size", "train.crop_size", "train.ema_decay",
    "train.epochs", "train.learning_rate", "train.seed", "train.update_order",
)  # fmt: skip
LOSS_WEIGHTS = "train.loss_weights."
# The run's data set stands for these keys of section `data`.
NAMES_OF_DATA = ("source", "sha256", "folder_A", "folder_B", "name", "names")


@dataclass(frozen=True)
class TrainingSetup:
    """A training before its networks are built.

    Attributes:
        params: of the training, with the precision that `train.mixed_precision: auto` chooses.
        data_md5: MD5 of the packed data, which MLflow records.
        store: the MLflow store of its run; None with `tracking.offline`: the run has only a journal.
        experiment: name of its MLflow experiment.
        device: name of the device.
        strategy: the devices that train together; the default strategy of TensorFlow for one device.
        features: the network whose metrics select the generators.
        initial: networks that give the training its weights, by name.
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
    initial: Mapping[str, InitialNetwork]

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
        """Seed everything, prepare the devices, load the feature network and find the initial networks.

        Raises:
            UserError: there are fewer devices than `train.devices`, the feature network cannot be loaded, or an initial
                network is missing.
        """
        device = prepare_device(params.train.seed, params.train.deterministic)
        strategy = choose_strategy(params)
        features = load_features(project.root / params.evaluate.features, params.evaluate.features_size)
        initial = find_initial_networks(project, params)
        params = with_precision(params)
        return cls(project, params, dataset, data_md5, store, experiment, device, strategy, features, initial)

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
        return Session.prepare(self.params, self.dataset, checkpoints, self.features, self.initial, self.strategy)

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
                **initial_tags(self.initial),
                **further_tags,
            },
            inputs=[DatasetInput(data.dataset, self.data_md5, data.recorded_source, "training")],
            resume=session.run_to_resume,
            steps_per_epoch=session.plan.steps_per_epoch,
        )


def recorded_params(params: Params) -> dict[str, Any]:
    """The parameters that a training's MLflow run records: the main ones, and others that differ from their default.

    This keeps MLflow's comparison of runs short. The run's file `params.yaml` has all parameters.
    """

    def shaping(of: Params) -> dict[str, Any]:
        data = of.data.model_dump(exclude=set(NAMES_OF_DATA))
        return dict(
            flatten(
                {"data": data, **of.shaping, "evaluate": of.evaluate.model_dump(include={"features", "features_size"})}
            )
        )

    defaults = shaping(Params())
    return {
        key: value
        for key, value in shaping(params).items()
        if key in MAIN_PARAMS or key.startswith(LOSS_WEIGHTS) or value != defaults.get(key)
    }


def recorded_text(params: Params) -> str:
    """All parameters as the run's file `params.yaml`, without addresses that may hold secrets."""
    public = params.model_copy(
        update={
            "data": params.data.model_copy(update={"source": params.data.recorded_source}),
            "search": params.search.model_copy(update={"storage": None}),
            "tracking": params.tracking.model_copy(update={"uri": None}),
        }
    )
    return without_credentials(yaml_text(public, "The parameters of this training."))

"""A training that is ready to run: networks, data, plan, evaluations, and the generators that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import tensorflow as tf

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import Direction
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.protocol import RealImages
from cyclegan.experiment.initial_networks import InitialNetwork
from cyclegan.experiment.networks import build_cyclegan, compile_cyclegan
from cyclegan.experiment.plan import (
    batches,
    refuse_other_channels,
    training_plan,
    training_size,
    with_possible_selection,
)
from cyclegan.experiment.samples import samples
from cyclegan.experiment.samples_over_time import SamplesOverTime
from cyclegan.experiment.validation import translators_of, validation_metrics
from cyclegan.models.translator import Translator
from cyclegan.params import Params
from cyclegan.system.files import write_text
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.listener import Listener
from cyclegan.training.loop import train
from cyclegan.training.progress import Plan, Progress

# File beside the checkpoints with the ID of the MLflow run. It exists from the start of the training.
RUN_ID = "run_id"


@dataclass(frozen=True)
class Kept:
    """The evaluation whose generators are a training's result.

    Attributes:
        select: the metric that selected it, the mean of both directions if it names none; `last`: no metric.
        step, epoch: of the evaluation.
        value: of the metric on the validation split.
    """

    select: str
    step: int
    epoch: float
    value: float | None

    @property
    def tags(self) -> dict[str, str]:
        """These attributes as tags of an MLflow run."""
        return {f"kept.{name}": str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Session:
    """A training that is ready to run. An interrupted one is restored from its newest checkpoint."""

    params: Params
    dataset: PackedDataset
    checkpoints: CheckpointFolder
    model: CycleGAN
    plan: Plan
    progress: Progress
    translators: Mapping[Direction, Translator]
    real: RealImages

    @classmethod
    def prepare(
        cls,
        params: Params,
        dataset: PackedDataset,
        checkpoints: CheckpointFolder,
        features: FeatureNetwork,
        initial: Mapping[str, InitialNetwork] | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> Session:
        """Build and compile the networks, and load the newest checkpoint if there is one.

        Args:
            initial: networks that give a new training its weights, by name.
            strategy: the devices that train together; None: one device.

        Raises:
            UserError: parameters and data do not match, or an initial network does not fit.
        """
        refuse_other_channels(params, dataset)
        params = with_possible_selection(params, dataset)
        size = training_size(params, dataset)
        plan = training_plan(params, dataset)
        # Every device gets a copy of the variables.
        with (strategy or tf.distribute.get_strategy()).scope():
            model = build_cyclegan(params, size, initial)
            compile_cyclegan(model, params, plan.total_steps)
        progress = Progress.restore(checkpoints, model)
        translators = translators_of(model.generators, params, dataset)
        real = RealImages(dataset, "val", features, params.evaluate.batch_size)
        return cls(params, dataset, checkpoints, model, plan, progress, translators, real)

    @property
    def kept_row(self) -> Mapping[str, float]:
        """All metrics of the evaluation whose generators are the result. Valid when the training has ended."""
        selection, validation = self.plan.selection, self.progress.validation
        return validation[-1 if selection is None else selection.best(validation)]

    @property
    def kept(self) -> Kept:
        """The evaluation whose generators are the result. Valid when the training has ended."""
        selection, row = self.plan.selection, self.kept_row
        select, value = ("last", None) if selection is None else (selection.metric, selection.value(row))
        return Kept(select, int(row["step"]), row["epoch"], value)

    @property
    def over_time(self) -> SamplesOverTime:
        """The samples of all evaluations, beside the checkpoints."""
        return SamplesOverTime(self.checkpoints.path / "samples")

    @property
    def run_to_resume(self) -> str | None:
        """ID of the MLflow run to resume: from the checkpoint or, before the first checkpoint, from RUN_ID."""
        file = self.checkpoints.path / RUN_ID
        return self.progress.run_id or (file.read_text(encoding="utf-8") if file.is_file() else None)

    def train(self, run_id: str, listener: Listener) -> None:
        """Train to the end of the plan.

        Args:
            run_id: of the MLflow run, saved for a resumed training.
            listener: receives losses, validation metrics and sample images.

        Raises:
            UserError: the training diverged, or its state cannot be saved.
            SystemExit, KeyboardInterrupt: a signal stopped the training after a checkpoint.
        """
        self.progress.run_id = run_id
        write_text(self.checkpoints.path / RUN_ID, run_id)
        train(
            self.model,
            batches(self.params, self.dataset, self.model.image_size, self.model.distribute_strategy),
            self.plan,
            self.progress,
            self.checkpoints,
            listener,
            validate=lambda: validation_metrics(self.translators, self.dataset, self.real),
            samples=self._samples,
        )

    def _samples(self) -> dict[str, np.ndarray]:
        sampled = samples(self.translators, self.dataset, self.params.train.sample_images)
        self.over_time.save(self.progress.step, {direction: sample.translated for direction, sample in sampled.items()})
        names = self.params.data.domain_names
        return {f"samples/{direction}": sample.grid(direction, names) for direction, sample in sampled.items()}

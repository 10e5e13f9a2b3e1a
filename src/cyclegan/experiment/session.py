"""A training that is set up: the networks, the data they see, what is measured on the way, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import Direction
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.protocol import RealImages
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

# The file beside the checkpoints that names the MLflow run, from its first moment on.
RUN_ID = "run_id"


@dataclass(frozen=True)
class Kept:
    """The evaluation whose generators are a training's result.

    Attributes:
        select: by which metric, averaged over both directions where it names none; `last`: by none.
        step, epoch: when it was.
        value: of the metric on the validation split.
    """

    select: str
    step: int
    epoch: float
    value: float | None

    @property
    def tags(self) -> dict[str, str]:
        """The same as tags of an MLflow run."""
        return {f"kept.{name}": str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Session:
    """A training that is set up and, where it was interrupted, restored."""

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
        cls, params: Params, dataset: PackedDataset, checkpoints: CheckpointFolder, features: FeatureNetwork
    ) -> Session:
        """Build and compile the networks, and load the newest checkpoint where there is one.

        Raises:
            UserError: parameters and data do not fit.
        """
        refuse_other_channels(params, dataset)
        params = with_possible_selection(params, dataset)
        size = training_size(params, dataset)
        plan = training_plan(params, dataset)
        model = build_cyclegan(params, size)
        compile_cyclegan(model, params, plan.total_steps)
        progress = Progress.restore(checkpoints, model)
        translators = translators_of(model.generators, params, dataset)
        real = RealImages(dataset, "val", features, params.evaluate.batch_size)
        return cls(params, dataset, checkpoints, model, plan, progress, translators, real)

    @property
    def kept_row(self) -> Mapping[str, float]:
        """All metrics of the evaluation whose generators the training results in, once it has ended."""
        selection, validation = self.plan.selection, self.progress.validation
        return validation[-1 if selection is None else selection.best(validation)]

    @property
    def kept(self) -> Kept:
        """Which evaluation that is."""
        selection, row = self.plan.selection, self.kept_row
        select, value = ("last", None) if selection is None else (selection.metric, selection.value(row))
        return Kept(select, int(row["step"]), row["epoch"], value)

    @property
    def over_time(self) -> SamplesOverTime:
        """The samples of all evaluations, kept beside the checkpoints."""
        return SamplesOverTime(self.checkpoints.path / "samples")

    @property
    def earlier_run(self) -> str | None:
        """The MLflow run to continue: of the checkpoint, or of a training that was killed before its first one."""
        file = self.checkpoints.path / RUN_ID
        return self.progress.run_id or (file.read_text(encoding="utf-8") if file.is_file() else None)

    def train(self, run_id: str, listener: Listener) -> None:
        """Train to the end of the plan.

        Args:
            run_id: of the MLflow run, kept for a resumed training.
            listener: receives losses, validation metrics and sample images.

        Raises:
            UserError, SystemExit, KeyboardInterrupt: see `cyclegan.training.loop.train`.
        """
        self.progress.run_id = run_id
        write_text(self.checkpoints.path / RUN_ID, run_id)
        train(
            self.model,
            batches(self.params, self.dataset, self.model.image_size),
            self.plan,
            self.progress,
            self.checkpoints,
            listener,
            validate=lambda: validation_metrics(self.translators, self.dataset, self.real),
            samples=self._samples,
        )

    def _samples(self) -> dict[str, np.ndarray]:
        shown = samples(self.translators, self.dataset, self.params.train.sample_images)
        self.over_time.keep(self.progress.step, {direction: sample.translated for direction, sample in shown.items()})
        return {f"samples/{direction}": sample.grid for direction, sample in shown.items()}

"""A training that is set up: the networks, the data they see, what is measured on the way, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cyclegan.data.loading.dataset import PackedDataset, sizes_of
from cyclegan.data.loading.pipeline import ResidentBatches, fit_on_device, steps_per_epoch, training_batches
from cyclegan.domains import DIRECTIONS, DOMAINS, Direction
from cyclegan.evaluation.distributions import lack_for_kid
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.protocol import RealPictures, evaluate
from cyclegan.evaluation.validation_series import VALIDATION_FIGURES, validation_series
from cyclegan.experiment.networks import build_cyclegan, compile_cyclegan
from cyclegan.experiment.samples import samples
from cyclegan.experiment.samples_over_time import SamplesOverTime
from cyclegan.models.translator import Translator
from cyclegan.params import Params, Size, flatten
from cyclegan.system.errors import UserError
from cyclegan.system.files import write_text
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.dispatch import Batch
from cyclegan.training.divergence import Retries
from cyclegan.training.listener import Listener
from cyclegan.training.loop import train
from cyclegan.training.plateau import Plateau
from cyclegan.training.progress import Plan, Progress
from cyclegan.training.selection import Selection

RUN_ID = "run_id"
"""The file beside the checkpoints that names the MLflow run, from its first moment on."""


@dataclass(frozen=True)
class Kept:
    """The evaluation whose generators are a training's result.

    Attributes:
        select: by which figure, averaged over both directions where it names none; `last`: by none.
        step, epoch: when it was.
        value: of the figure on the validation split.
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
    real: RealPictures

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
        real = RealPictures(dataset, "val", features, params.evaluate.batch_size)
        return cls(params, dataset, checkpoints, model, plan, progress, translators, real)

    @property
    def kept_row(self) -> Mapping[str, float]:
        """All figures of the evaluation whose generators the training results in, once it has ended."""
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
        """The MLflow run to go on with: of the checkpoint, or of a training that was killed before its first one."""
        file = self.checkpoints.path / RUN_ID
        return self.progress.run_id or (file.read_text(encoding="utf-8") if file.is_file() else None)

    def train(self, run_id: str, listener: Listener) -> None:
        """Train to the end of the plan.

        Args:
            run_id: of the MLflow run, kept for a resumed training.
            listener: is told of losses, validation figures and sample pictures.

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
            validate=lambda: validation_figures(self.translators, self.dataset, self.real),
            samples=self._samples,
        )

    def _samples(self) -> dict[str, np.ndarray]:
        shown = samples(self.translators, self.dataset, self.params.train.sample_images)
        self.over_time.keep(self.progress.step, {direction: sample.translated for direction, sample in shown.items()})
        return {f"samples/{direction}": sample.grid for direction, sample in shown.items()}


def recorded_params(params: Params) -> dict[str, Any]:
    """What an MLflow run of a training lists as its parameters."""
    recorded = dict(flatten(params.model_dump(exclude={"search", "registry", "tracking"})))
    return recorded | {"data.source": params.data.recorded_source}


def refuse_other_channels(params: Params, dataset: PackedDataset) -> None:
    """Networks and pictures must have the same channels.

    Raises:
        UserError: the data was made with other parameters.
    """
    for domain, wanted in zip(DOMAINS, (params.data.channels_A, params.data.channels_B), strict=True):
        found = dataset.images(domain, "train").shape[-1]
        if found != wanted:
            raise UserError(
                f"data.channels_{domain} = {wanted}, but the pictures of {dataset.folder} have {found}; "
                "make them anew with 'dvc repro split'"
            )


def with_possible_selection(params: Params, dataset: PackedDataset) -> Params:
    """Turn `train.select: auto` into `last` where the validation split has no metric to choose by, and say why.

    Raises:
        UserError: `train.early_stop` needs such a metric.
    """
    lack = lack_for_kid({domain: len(dataset.images(domain, "val")) for domain in DOMAINS}, "val")
    if params.train.select != "auto" or lack is None or "val_AtoB/pair_psnr" in validation_series(dataset):
        return params
    if params.train.early_stop is not None:
        raise UserError(
            f"train.early_stop = {params.train.early_stop}: has no metric to watch, {lack}; set it to null, or raise "
            "data.val_fraction"
        )
    print(f"{lack}, so train.select: auto keeps the last generators")
    return params.model_copy(update={"train": params.train.model_copy(update={"select": "last"})})


def training_plan(params: Params, dataset: PackedDataset) -> Plan:
    """Turn epochs into steps for this data set.

    Raises:
        UserError: the learning rate or the choice of the generators is to follow a validation figure that this data
            does not allow.
    """
    options = params.train
    series = validation_series(dataset)
    selection = Selection.of(options.select, options.early_stop, series)
    plateau = None if options.plateau is None else Plateau(**options.plateau.model_dump())
    if plateau is not None:
        plateau.require(series)
    counts = [len(dataset.images(domain, "train")) for domain in DOMAINS]
    automatic = steps_per_epoch(max(counts), options.batch_size)
    return Plan(
        epochs=options.epochs,
        steps_per_epoch=automatic if options.steps_per_epoch == "auto" else options.steps_per_epoch,
        batch_size=options.batch_size,
        log_every=options.log_every,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
        plateau=plateau,
        on_divergence=Retries(**options.on_divergence.model_dump()),
        selection=selection,
    )


def training_size(params: Params, dataset: PackedDataset) -> Size:
    """`(height, width)` of the pictures that the networks see.

    Raises:
        UserError: a training picture is smaller than the crop, or pictures that are to stay whole differ in size or
            have a size that the networks cannot take.
    """
    known = params.training_size
    found = [
        (int(height), int(width), f"{name} ({width}×{height})")
        for domain in DOMAINS
        for name, (height, width) in zip(
            dataset.ids(domain, "train"), sizes_of(dataset.images(domain, "train")), strict=True
        )
    ]
    if known is not None:
        small = [shown for height, width, shown in found if height < known[0] or width < known[1]]
        if small:
            raise UserError(
                f"train.crop_size {list(known)} is larger than {len(small)} of {len(found)} training pictures; "
                f"lower it, or set data.load_size to a number: {_first(small)}"
            )
        return known
    size = found[0][:2]
    others = [shown for height, width, shown in found if (height, width) != size]
    if others:
        raise UserError(
            f"train.crop_size: whole needs training pictures of one size, but {found[0][2]} is not the size of "
            f"{len(others)} of {len(found)}; set train.crop_size or data.load_size to a number: {_first(others)}"
        )
    reason = params.model.objection_to(size)
    if reason is not None:
        raise UserError(f"train.crop_size: whole, the pictures' size {list(size)}{reason}, by train.crop_size")
    return size


def _first(names: list[str]) -> str:
    """A few names, on one line."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def batches(params: Params, dataset: PackedDataset, crop_size: Size) -> Callable[[int], Iterable[Batch]]:
    """Makes the training batches from a step on: from pictures on the GPU where they fit, else from those on disk."""
    options = params.train
    images = dataset.images("A", "train"), dataset.images("B", "train")
    drawn: dict[str, Any] = {
        "batch_size": options.batch_size,
        "crop_size": crop_size,
        "flip": options.flip,
        "seed": options.seed,
    }
    if tf.config.list_physical_devices("GPU") and fit_on_device(*images):
        return ResidentBatches(*images, **drawn).starting_at
    return lambda step: training_batches(*images, **drawn, start_step=step)


def translators_of(
    generators: Mapping[Direction, keras.Model], params: Params, dataset: PackedDataset
) -> dict[Direction, Translator]:
    """Generators that take this data's pictures as they are stored."""
    return {
        direction: Translator(generator, dataset.bit_depth, params.evaluate.batch_size)
        for direction, generator in generators.items()
    }


def validation_figures(
    translators: Mapping[Direction, Translator], dataset: PackedDataset, real: RealPictures
) -> dict[str, float]:
    """The validation series: `val_AtoB/pair_psnr` and so on, those that the data allows."""
    metrics = evaluate(translators, dataset, "val", real).metrics
    return {
        f"val_{direction}/{name}": metrics[direction][name]
        for direction in DIRECTIONS
        for name in VALIDATION_FIGURES
        if name in metrics[direction]
    }

"""Stage `train`: from a packed data set and parameters to two generators and one MLflow run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

import cyclegan
from cyclegan.data.dataset import PackedDataset, picked, sizes_of
from cyclegan.data.pipeline import ResidentBatches, fit_on_device, steps_per_epoch, training_batches
from cyclegan.data.staging import remove_leftovers
from cyclegan.digests import code_digest, folder_digest, run_key
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, Direction
from cyclegan.errors import UserError
from cyclegan.evaluation.features import FeatureNetwork
from cyclegan.evaluation.grid import Column, sample_grid, stacked
from cyclegan.evaluation.protocol import RealPictures, evaluate, evenly
from cyclegan.files import replacing, write_json, write_text
from cyclegan.inference.translate import Translator, each
from cyclegan.overlay import effective
from cyclegan.params import Params, Size, flatten
from cyclegan.project import Project
from cyclegan.stages.features import feature_network
from cyclegan.stages.lineage import extended, history, lineage, tell_differences
from cyclegan.stages.memory import memory_advice
from cyclegan.stages.networks import build_cyclegan, compile_cyclegan, inference_copy
from cyclegan.stages.orphans import ends_with_dvc
from cyclegan.stages.outputs import opened_store
from cyclegan.stages.over_time import SamplesOverTime
from cyclegan.stages.series import VALIDATION_FIGURES, validation_series
from cyclegan.tracking.leftovers import close_stale_runs
from cyclegan.tracking.opening import DatasetInput
from cyclegan.tracking.provenance import data_digest, tags
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import waiting
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.dispatch import Batch
from cyclegan.training.divergence import Retries
from cyclegan.training.loop import Listener, Plan, Progress, only_trainer, train
from cyclegan.training.plateau import Plateau
from cyclegan.training.relatives import remember, shorter_finished
from cyclegan.training.selection import Selection

RUN_ID = "run_id"
"""The file beside the checkpoints that names the MLflow run, from its first moment on."""

SHAPE_NOTHING = ("checkpoint_every", "keep_checkpoints")
"""Keys of section `train` that change no weight."""


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
        size = training_size(params, dataset)
        plan = training_plan(params, dataset)
        model = build_cyclegan(params, size)
        compile_cyclegan(model, params, plan.total_steps)
        progress = Progress.restore(checkpoints, model)
        translators = translators_of(model.generators, params, dataset)
        real = RealPictures(dataset, "val", features)
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
            batches(self.params, self.dataset),
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


def run(project: Project) -> None:
    """Train, or go on training; write `models/*.keras` and `reports/train/`."""
    found = effective(project)
    params = found.params
    # As split does after fetch: DVC may bring the output of a killed split from its run cache.
    remove_leftovers(project.split)
    dataset = PackedDataset.open(project.split)
    device = prepare_device(params.train.seed, params.train.deterministic)
    # Before any work: a tracking server that is away is told at once.
    store = None if params.tracking.offline else opened_store(project, params.tracking)
    experiment = params.tracking.experiment or params.data.dataset
    # Outside DVC nothing says that dvc.lock describes the files that are there.
    recorded = data_digest(project, "data/split") if "DVC_STAGE" in os.environ else None
    digest = recorded or folder_digest(project.split)
    features = feature_network(params, project)
    for name, both in found.replaced.items():
        print(f"{name} = {both['best.yaml']} from reports/search/best.yaml; params.yaml has {both['params.yaml']}")

    shapes = shapes_the_run(params, digest, features)
    key = run_key(shapes)
    checkpoints = CheckpointFolder(project.checkpoints / key, keep=params.train.keep_checkpoints)
    with ends_with_dvc(), only_trainer(checkpoints.path):
        if store is not None:
            close_stale_runs(store, experiment)
        remember(checkpoints.path, shapes)
        session = Session.prepare(params, dataset, checkpoints, features)
        plan, origin = session.plan, None
        print(f"training on {device}: {plan.epochs} epochs of {plan.steps_per_epoch} steps")
        if session.progress.step:
            print(f"resuming at step {session.progress.step} of {plan.total_steps}")
        else:
            if params.train.extend:
                origin = shorter_finished(project.checkpoints, checkpoints.path, shapes, plan.steps_per_epoch)
            if origin is None:
                tell_differences(project.checkpoints, checkpoints.path, shapes)
            else:
                session = replace(session, progress=extended(origin, session.model, params))
        progress = session.progress
        opened = partial(TrackedRun.offline, waiting(project)) if store is None else partial(TrackedRun.start, store)
        with opened(
            experiment=experiment,
            name=os.environ.get("DVC_EXP_NAME") or f"{params.data.dataset}-{key[:8]}",
            params=recorded_params(params),
            tags={**tags(project), **found.tags, "device": device, "run_key": key, **lineage(origin)},
            inputs=[DatasetInput(params.data.dataset, digest, params.data.recorded_source, "training")],
            resume=session.earlier_run,
        ) as tracked:
            if origin is not None:
                tracked.log_rows(history(progress))
            with memory_advice(params, session.model.image_size, device):
                session.train(tracked.id, tracked)
            kept = session.kept
            write_models(project.models, session.model, params)
            write_training_report(project.reports / "train", session)
            tracked.set_tags(kept.tags)
    write_json(
        project.reports / "train" / "run.json",
        {
            "run_id": progress.run_id,
            "experiment": experiment,
            "dataset": params.data.dataset,
            "run_key": key,
            "steps": progress.step,
            "epochs": params.train.epochs,
            "kept": asdict(kept),
            "adversarial_loss": params.train.adversarial_loss,
            "seconds": round(progress.seconds, 1),
            "device": device,
            "data_md5": digest,
            "search": {"origin": dict(found.origin), "replaced": dict(found.replaced)},
        },
    )


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


def batches(params: Params, dataset: PackedDataset) -> Callable[[int], Iterable[Batch]]:
    """Makes the training batches from a step on: from pictures on the GPU where they fit, else from those on disk."""
    options = params.train
    images = dataset.images("A", "train"), dataset.images("B", "train")
    drawn: dict[str, Any] = {
        "batch_size": options.batch_size,
        "crop_size": training_size(params, dataset),
        "flip": options.flip,
        "seed": options.seed,
    }
    if tf.config.list_physical_devices("GPU") and fit_on_device(*images):
        return ResidentBatches(*images, **drawn).starting_at
    return lambda step: training_batches(*images, **drawn, start_step=step)


def shapes_the_run(params: Params, digest: str, features: FeatureNetwork) -> dict[str, Any]:
    """Everything on which the trained weights depend; a checkpoint made with anything else is not resumed."""
    package = Path(cyclegan.__file__).parent
    return {
        "data": digest,
        "model": params.model.model_dump(),
        "train": params.train.model_dump(exclude=set(SHAPE_NOTHING)),
        # By whose figures the generators are chosen.
        "features": [features.name, features.sha256],
        "code": {
            part: code_digest(package / part)
            for part in ("data", "evaluation", "models", "training", "params", "stages/networks.py")
        },
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": version("numpy"),
    }


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


@dataclass(frozen=True)
class Sample:
    """Some pictures of a direction's source, translated, and translated back."""

    real: Column
    translated: Column
    back: Column

    @property
    def grid(self) -> np.ndarray:
        """One row for each picture: [H, W, 3], uint8."""
        return sample_grid(self.real, self.translated, self.back)


def samples(translators: Mapping[Direction, Translator], dataset: PackedDataset, count: int) -> dict[Direction, Sample]:
    """Validation pictures, the same ones every time, for each direction."""
    found = {}
    for direction, (source, _) in DIRECTIONS.items():
        images = dataset.images(source, "val")
        real = picked(images, evenly(len(images), count))
        translated = each(translators[direction].translate, real)
        found[direction] = Sample(real, translated, each(translators[OPPOSITE[direction]].translate, translated))
    return found


def write_models(folder: Path, model: CycleGAN, params: Params) -> None:
    """Write the kept generators, ready for inference, as `generator_AtoB.keras` and `generator_BtoA.keras`."""
    for direction, generator in model.kept_generators.items():
        with replacing(folder / f"generator_{direction}.keras") as temporary:
            inference_copy(generator, params, f"G_{direction}", model.image_size).save(temporary)


def write_training_report(folder: Path, session: Session) -> None:
    """Write the curves as CSV, and as PNG the samples of the kept generators and those of all evaluations."""
    progress, dataset = session.progress, session.dataset
    write_text(folder / "losses.csv", pd.DataFrame(progress.losses).to_csv(index=False))
    write_text(folder / "validation.csv", pd.DataFrame(progress.validation).to_csv(index=False))
    translators = translators_of(session.model.kept_generators, session.params, dataset)
    shown = samples(translators, dataset, session.params.train.sample_images)
    step = session.kept.step
    # Again: an extended training may result in the generators of the one that it extends.
    session.over_time.keep(step, {direction: sample.translated for direction, sample in shown.items()})
    pictures = {
        "samples.png": stacked([sample.grid for sample in shown.values()]),
        "over_time.png": session.over_time.drawn(
            progress.validation, step, {direction: sample.real for direction, sample in shown.items()}
        ),
    }
    for name, picture in pictures.items():
        with replacing(folder / name) as temporary:
            Image.fromarray(picture).save(temporary)

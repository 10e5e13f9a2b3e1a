"""Stage `train`: from a packed data set and parameters to two generators and one MLflow run."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.experiment.earlier_trainings import remember
from cyclegan.experiment.lineage import history, lineage, starting_point
from cyclegan.experiment.memory_advice import memory_advice
from cyclegan.experiment.naming import data_tags, refuse_other_images
from cyclegan.experiment.networks import inference_copy
from cyclegan.experiment.plan import training_size
from cyclegan.experiment.run_key import training_shape
from cyclegan.experiment.samples import samples
from cyclegan.experiment.session import Session
from cyclegan.experiment.stage_outputs import opened_store
from cyclegan.experiment.trained_run import TrainedRun, run_name
from cyclegan.experiment.training_setup import TrainingSetup
from cyclegan.experiment.validation import translators_of
from cyclegan.params import Params
from cyclegan.params.overrides import Effective, effective
from cyclegan.project import Project
from cyclegan.report.grid import stacked
from cyclegan.system.digests import folder_digest, run_key
from cyclegan.system.files import remove_leftovers, replacing, write_text
from cyclegan.system.processes import ends_with_dvc
from cyclegan.tracking.provenance import dvc_lock_digest
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN

# How long a second training of a run waits for the first one, which may be about to stop.
SECONDS_FOR_ANOTHER = 15


def run(project: Project) -> None:
    """Train, or resume a training; write `models/*.keras` and `reports/train/`."""
    # Read the parameters, those that a search has chosen included, and the data.
    found = effective(project)
    params = found.params
    # As split does after fetch: DVC may bring the output of a killed split from its run cache.
    remove_leftovers(project.split)
    dataset = PackedDataset.open(project.split)

    # Open the store before any work: one that is unavailable is reported at once.
    store = None if params.tracking.offline else opened_store(project, params.tracking)
    if store is not None:
        refuse_other_images(store, params, dataset)

    # Set the training up.
    experiment = params.tracking.experiment or params.data.dataset
    setup = TrainingSetup.prepare(
        project, params, dataset, data_md5=_data_md5(project), store=store, experiment=experiment
    )
    for name, both in found.replaced.items():
        print(f"{name} = {both['best.yaml']} from reports/search/best.yaml; params.yaml has {both['params.yaml']}")

    # Find its checkpoints: those of the same data, parameters and code.
    shapes = training_shape(params, setup.data_md5, setup.features)
    key = run_key(shapes)
    checkpoints = CheckpointFolder(project.checkpoints / key, keep=params.train.keep_checkpoints)
    advised = memory_advice(params, training_size(params, dataset), setup.device)
    with ends_with_dvc(), setup.claimed(checkpoints, "trains this run", wait=SECONDS_FOR_ANOTHER), advised:
        remember(checkpoints.path, shapes)

        # Build the networks, and choose the step at which the training starts.
        session = setup.session(checkpoints)
        print(f"training on {setup.device}: {session.plan.epochs} epochs of {session.plan.steps_per_epoch} steps")
        session, origin = starting_point(session, project.checkpoints, shapes)

        # Train as one MLflow run, and write the results before it ends.
        name = os.environ.get("DVC_EXP_NAME") or run_name(params.data.dataset, key)
        run_tags = {**found.tags, **data_tags(params, dataset), "run_key": key, **lineage(origin)}
        with setup.tracked_run(session, name, run_tags) as tracked:
            if origin is not None:
                tracked.log_rows(history(session.progress))
            session.train(tracked.id, tracked)
            write_models(project.models, session.model, params)
            write_training_report(project.reports / "train", session)
            tracked.set_tags(session.kept.tags)

    # Record the run for the later stages.
    _trained_run(found, setup, session, key, tracked.id).save(project)


def _data_md5(project: Project) -> str:
    """The MD5 of the packed data: as DVC has just recorded it, or else from the files."""
    # Outside DVC, dvc.lock may describe other files than those that are there.
    recorded = dvc_lock_digest(project, "data/split") if "DVC_STAGE" in os.environ else None
    return recorded or folder_digest(project.split)


def _trained_run(found: Effective, setup: TrainingSetup, session: Session, key: str, run_id: str) -> TrainedRun:
    """What the later stages read of this training."""
    train = setup.params.train
    return TrainedRun(
        run_id=run_id,
        experiment=setup.experiment,
        dataset=setup.params.data.dataset,
        run_key=key,
        steps=session.progress.step,
        epochs=train.epochs,
        kept=asdict(session.kept),
        adversarial_loss=train.adversarial_loss,
        seconds=round(session.progress.seconds, 1),
        device=setup.device,
        data_md5=setup.data_md5,
        search={"origin": dict(found.origin), "replaced": dict(found.replaced)},
    )


def write_models(folder: Path, model: CycleGAN, params: Params) -> None:
    """Write the kept generators, ready for inference, as `generator_AtoB.keras` and `generator_BtoA.keras`."""
    for direction, generator in model.kept_generators.items():
        with replacing(folder / f"generator_{direction}.keras") as temporary:
            inference_copy(generator, params, f"G_{direction}", model.image_size).save(temporary)
            _make_reproducible(temporary)


def _make_reproducible(file: Path) -> None:
    """Rewrite a `.keras` file without what differs each time: equal models have equal bytes, by which DVC knows them.

    Keras writes the time, and names shared objects by their addresses in memory.
    """
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(parts["metadata.json"])
    about.pop("date_saved", None)
    parts["metadata.json"] = json.dumps(about).encode()
    numbers: dict[bytes, int] = {}
    parts["config.json"] = re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda address: b"%d" % numbers.setdefault(address[0], len(numbers)),
        parts["config.json"],
    )
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            # The date of a ZipInfo is 1980.
            archive.writestr(zipfile.ZipInfo(name), content)


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
    images = {
        "samples.png": stacked([sample.grid for sample in shown.values()]),
        "over_time.png": session.over_time.drawn(
            progress.validation, step, {direction: sample.real for direction, sample in shown.items()}
        ),
    }
    for name, image in images.items():
        with replacing(folder / name) as temporary:
            Image.fromarray(image).save(temporary)

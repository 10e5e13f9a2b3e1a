"""Stage `train`: from a packed data set and parameters to two generators and one MLflow run."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.features import load_features
from cyclegan.experiment.earlier_trainings import remember, shorter_finished
from cyclegan.experiment.lineage import extended, history, lineage, tell_differences
from cyclegan.experiment.memory_advice import memory_advice
from cyclegan.experiment.naming import data_tags, refuse_other_images
from cyclegan.experiment.networks import inference_copy
from cyclegan.experiment.plan import training_size
from cyclegan.experiment.run_key import training_shape
from cyclegan.experiment.samples import samples
from cyclegan.experiment.session import Session, recorded_params
from cyclegan.experiment.stage_outputs import opened_store
from cyclegan.experiment.validation import translators_of
from cyclegan.params import Params
from cyclegan.params.overrides import effective
from cyclegan.project import Project
from cyclegan.report.grid import stacked
from cyclegan.system.digests import folder_digest, run_key
from cyclegan.system.files import remove_leftovers, replacing, write_json, write_text
from cyclegan.system.locks import only_process
from cyclegan.system.processes import ends_with_dvc
from cyclegan.tracking.description import DatasetInput
from cyclegan.tracking.provenance import dvc_lock_digest, tags
from cyclegan.tracking.recovery import close_stale_runs
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import waiting
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device

# How long a second training of a run waits for the first one, which may be about to stop.
SECONDS_FOR_ANOTHER = 15


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
    if store is not None:
        refuse_other_images(store, params, dataset)
    experiment = params.tracking.experiment or params.data.dataset
    # Outside DVC nothing says that dvc.lock describes the files that are there.
    recorded = dvc_lock_digest(project, "data/split") if "DVC_STAGE" in os.environ else None
    digest = recorded or folder_digest(project.split)
    features = load_features(project.root / params.evaluate.features, params.evaluate.features_size)
    for name, both in found.replaced.items():
        print(f"{name} = {both['best.yaml']} from reports/search/best.yaml; params.yaml has {both['params.yaml']}")

    shapes = training_shape(params, digest, features)
    key = run_key(shapes)
    checkpoints = CheckpointFolder(project.checkpoints / key, keep=params.train.keep_checkpoints)
    advised = memory_advice(params, training_size(params, dataset), device)
    alone = only_process(checkpoints.path / "lock", "trains this run", wait=SECONDS_FOR_ANOTHER)
    with ends_with_dvc(), alone, advised:
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
            tags={
                **tags(project),
                **found.tags,
                **data_tags(params, dataset),
                "device": device,
                "run_key": key,
                **lineage(origin),
            },
            inputs=[DatasetInput(params.data.dataset, digest, params.data.recorded_source, "training")],
            resume=session.earlier_run,
        ) as tracked:
            if origin is not None:
                tracked.log_rows(history(progress))
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
    pictures = {
        "samples.png": stacked([sample.grid for sample in shown.values()]),
        "over_time.png": session.over_time.drawn(
            progress.validation, step, {direction: sample.real for direction, sample in shown.items()}
        ),
    }
    for name, picture in pictures.items():
        with replacing(folder / name) as temporary:
            Image.fromarray(picture).save(temporary)

"""Stage `train`: train both generators on the packed data, as one MLflow run."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import zipfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, DOMAINS
from cyclegan.evaluation.validation_series import VALIDATION_METRICS
from cyclegan.experiment.earlier_trainings import save_shapes
from cyclegan.experiment.follower import Agree, agreement, run_follower
from cyclegan.experiment.lineage import choose_start, history, lineage_tags
from cyclegan.experiment.memory_advice import memory_advice
from cyclegan.experiment.naming import data_tags, refuse_other_images
from cyclegan.experiment.networks import inference_copy
from cyclegan.experiment.plan import training_size
from cyclegan.experiment.run_key import host_shape, training_shape
from cyclegan.experiment.run_page import DescribedRun
from cyclegan.experiment.samples import samples
from cyclegan.experiment.session import Session
from cyclegan.experiment.stage_outputs import open_store_and_deliver
from cyclegan.experiment.trained_run import TrainedRun, new_run_name
from cyclegan.experiment.training_setup import TrainingSetup, recorded_text
from cyclegan.experiment.validation import translators_of
from cyclegan.params import Params
from cyclegan.params.overrides import Effective, effective
from cyclegan.project import Project
from cyclegan.report.grid import stacked
from cyclegan.system.digests import folder_digest, run_key
from cyclegan.system.files import remove_leftovers, replacing, write_text
from cyclegan.system.hosts import Hosts
from cyclegan.system.processes import ends_with_dvc
from cyclegan.tracking.provenance import dvc_lock_digest
from cyclegan.tracking.run import TrackedRun
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.followers import lost_hosts_reported

# A second training with the same checkpoints waits this long for the first one, which may be about to stop.
SECONDS_FOR_ANOTHER = 15


def run(project: Project) -> None:
    """Train, or resume a training; write `models/*.keras` and `reports/train/`.

    On several hosts, only the chief writes; the others run its training steps.
    """
    hosts = Hosts.from_environment()
    if hosts is not None and not hosts.is_chief:
        sys.exit(run_follower(project, hosts))
    with agreement(hosts) as agree, lost_hosts_reported() if hosts is not None else nullcontext():
        _train(project, hosts, agree)


def _train(project: Project, hosts: Hosts | None, agree: Agree) -> None:
    # Read the parameters, with the winner of a search, and the data.
    chosen = effective(project)
    params = chosen.params
    # Remove temporary files, because DVC's run cache may hold the output of a killed stage `split`.
    remove_leftovers(project.split)
    dataset = PackedDataset.open(project.split)

    # Open the store first, so that an unavailable store is reported before any work.
    store = None if params.tracking.offline else open_store_and_deliver(project, params.tracking)
    if store is not None:
        refuse_other_images(store, params, dataset)

    # Set the training up, on all its hosts.
    experiment = params.tracking.experiment or params.data.dataset
    data_md5 = _data_md5(project)
    if hosts is not None:
        agree(host_shape(project, params, data_md5))
    setup = TrainingSetup.prepare(
        project, params, dataset, data_md5=data_md5, store=store, experiment=experiment, hosts=hosts
    )
    params = setup.params
    for name, both in chosen.replaced.items():
        print(f"{name} = {both['best.yaml']} from reports/search/best.yaml; params.yaml has {both['params.yaml']}")

    # Find its checkpoints: those of the same data, parameters and code.
    shapes = training_shape(params, setup.data_md5, setup.features, setup.initial)
    key = run_key(shapes)
    checkpoints = CheckpointFolder(project.checkpoints / key, keep=params.train.keep_checkpoints)
    advised = memory_advice(params, training_size(params, dataset), setup.device)
    with ends_with_dvc(), setup.claimed(checkpoints, "trains this run", wait=SECONDS_FOR_ANOTHER), advised:
        save_shapes(checkpoints.path, shapes)

        # Build the networks, and choose the step at which the training starts.
        session = setup.session(checkpoints)
        print(f"training on {setup.device}: {session.plan.epochs} epochs of {session.plan.steps_per_epoch} steps")
        session, origin = choose_start(session, project.checkpoints, shapes)

        # Train as one MLflow run, and write the results before it ends.
        run_tags = {**chosen.tags, **data_tags(params, dataset), "run_key": key, **lineage_tags(origin)}
        with session.leader.leading(), setup.tracked_run(session, new_run_name(params), run_tags) as tracked:
            if origin is not None:
                tracked.log_rows(history(session.progress))
            session.train(tracked.id, DescribedRun(tracked, params, session.plan.total_steps))
            write_models(project.models, session.model, params)
            write_training_report(project.reports / "train", session)
            log_files(tracked, project, params)
            tracked.set_tags(session.kept.tags)

    # Record the run for the later stages.
    _trained_run(chosen, setup, session, key, tracked.id).save(project)


def log_files(tracked: TrackedRun, project: Project, params: Params) -> None:
    """Log the parameters and the samples. Their names are those of every run, so that MLflow compares them."""
    for name in ("samples.png", "over_time.png"):
        tracked.log_artifact(project.reports / "train" / name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(recorded_text(params), encoding="utf-8")
        tracked.log_artifact(file)


def _data_md5(project: Project) -> str:
    """The MD5 of the packed data, from dvc.lock or from the files."""
    # Outside DVC, dvc.lock may not match the files.
    recorded = dvc_lock_digest(project, "data/split") if "DVC_STAGE" in os.environ else None
    return recorded or folder_digest(project.split)


def _trained_run(chosen: Effective, setup: TrainingSetup, session: Session, key: str, run_id: str) -> TrainedRun:
    """The record of this training for later stages."""
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
        search={"origin": dict(chosen.origin), "replaced": dict(chosen.replaced)},
        images={domain: len(setup.dataset.images(domain, "train")) for domain in DOMAINS},
    )


def write_models(folder: Path, model: CycleGAN, params: Params) -> None:
    """Write the kept generators, ready for inference, as `generator_AtoB.keras` and `generator_BtoA.keras`."""
    for direction, generator in model.kept_generators.items():
        with replacing(folder / f"generator_{direction}.keras") as temporary:
            inference_copy(generator, params, f"G_{direction}", model.image_size).save(temporary)
            _make_reproducible(temporary)


def _make_reproducible(file: Path) -> None:
    """Rewrite a `.keras` file so that equal models have equal bytes, and therefore equal checksums for DVC.

    Keras writes the time, and identifies shared objects by their addresses in memory.
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
            # A ZipInfo has the constant date 1980-01-01.
            archive.writestr(zipfile.ZipInfo(name), content)


def write_training_report(folder: Path, session: Session) -> None:
    """Write the curves as CSV, and the samples of the kept generators and of several evaluations as PNG."""
    progress, dataset, names = session.progress, session.dataset, session.params.data.domain_names
    write_text(folder / "losses.csv", pd.DataFrame(progress.losses).to_csv(index=False))
    write_text(folder / "validation.csv", _validation_table(session).to_csv(index=False))
    translators = translators_of(session.model.kept_generators, session.params, dataset)
    sampled = samples(translators, dataset, session.params.train.sample_images)
    step = session.kept.step
    # Save these samples again, because the kept generators may be those of the training that this one extends.
    session.over_time.save(step, {direction: sample.translated for direction, sample in sampled.items()})
    images = {
        "samples.png": stacked([sample.grid(direction, names) for direction, sample in sampled.items()]),
        "over_time.png": session.over_time.draw(
            progress.validation, step, {direction: sample.real for direction, sample in sampled.items()}, names
        ),
    }
    for name, image in images.items():
        with replacing(folder / name) as temporary:
            Image.fromarray(image).save(temporary)


def _validation_table(session: Session) -> pd.DataFrame:
    """The validation metrics, with `kept` = 1 at the evaluation of the kept generators, for DVC's plots.

    DVC's plots name every metric, so those that the data does not allow are empty columns.
    """
    table = pd.DataFrame(session.progress.validation)
    table["kept"] = (table["step"] == session.kept.step).astype(int)
    series = [f"val_{direction}/{name}" for direction in DIRECTIONS for name in VALIDATION_METRICS]
    return table.reindex(columns=[*table, *(name for name in series if name not in table)])

"""One trial of a search, in a process of its own: a training that tells its worker how it gets on."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.experiment.run_key import packed_data_digest, study_key
from cyclegan.experiment.session import Session
from cyclegan.experiment.training_setup import TrainingSetup
from cyclegan.params import Params, load
from cyclegan.project import Project
from cyclegan.search.shared_search import study_name, with_objectives, work_folder
from cyclegan.search.space import variant
from cyclegan.search.study import definition
from cyclegan.system.digests import run_key
from cyclegan.system.errors import UserError, system_fault
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import open_store
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.progress import Progress, Row

SECONDS_FOR_ANOTHER = 60.0
"""An earlier attempt whose worker was killed may still be writing its checkpoint."""


class Pruned(Exception):  # noqa: N818
    """The worker has asked to end this trial."""


class SettingError(UserError):
    """What is wrong with this trial's setting: it has failed."""


class SurroundingsError(UserError):
    """What is wrong around this trial, which any other one would meet as well: its worker takes it back."""

    exit_code = os.EX_TEMPFAIL


@contextmanager
def of_the_setting() -> Iterator[None]:
    """A UserError within this context speaks of the trial's setting."""
    try:
        yield
    except UserError as error:
        raise SettingError(str(error)) from error


@contextmanager
def of_the_surroundings() -> Iterator[None]:
    """Every other UserError within this context, and all that the system refuses, does not."""
    try:
        yield
    except SettingError:
        raise
    except Exception as error:
        fault = str(error) if isinstance(error, UserError) else system_fault(error)
        if fault is None:
            raise
        raise SurroundingsError(fault) from error


class Answers:
    """What the worker says, line by line; this process ends when the worker is gone."""

    def __init__(self, lines: IO[bytes]) -> None:
        self._said: queue.Queue[bytes] = queue.Queue()
        self._lines = lines
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for the next line.

        Raises:
            SystemExit: the worker is gone.
        """
        line = self._said.get()
        if not line:
            raise SystemExit(128 + signal.SIGTERM)
        return json.loads(line)

    def _read(self) -> None:
        for line in self._lines:
            self._said.put(line)
        self._said.put(b"")
        # The training stops at once, with a checkpoint from which the next attempt goes on.
        os.kill(os.getpid(), signal.SIGTERM)


class Telling:
    """A listener of the training that passes everything on to MLflow, and the validation metrics to the worker."""

    def __init__(self, tracked: TrackedRun, answers: Answers, told: IO[str]) -> None:
        self._tracked, self._answers, self._told = tracked, answers, told

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracked.log_metrics(step, metrics)
        if found := measured(metrics):
            self.tell(found)

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._tracked.log_image(step, key, image)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._tracked.set_tags(tags)

    def tell(self, metrics: Mapping[str, float]) -> None:
        """Report, and raise Pruned if that is the answer."""
        self.say({"figures": metrics})
        if not self._answers.next()["continue"]:
            raise Pruned

    def say(self, message: Mapping[str, Any]) -> None:
        """Tell what needs no answer."""
        self._told.write(json.dumps(message) + "\n")
        self._told.flush()


def measured(row: Mapping[str, float]) -> dict[str, float]:
    """The validation metrics among what an evaluation has recorded."""
    return {name: value for name, value in row.items() if name.startswith("val_")}


def run(project: Project) -> None:
    """Run the trial that standard input describes; see `cyclegan.search.worker` for the protocol."""
    # Whatever else prints must not be taken for an answer.
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if sys.stdin.isatty():
        raise UserError("'cyclegan search trial' is started by a worker, which tells it what to do")
    # Not sys.stdin itself, whose lock would be held when Python ends.
    answers = Answers(os.fdopen(os.dup(sys.stdin.fileno()), "rb"))
    request = answers.next()
    with of_the_surroundings():
        _run(project, request, answers, told)


def _run(project: Project, request: Mapping[str, Any], answers: Answers, told: IO[str]) -> None:
    # Read the data and the parameters, and check that they are those of the search.
    dataset = PackedDataset.open(project.split)
    params = with_objectives(load(project.params), dataset)
    data_md5 = packed_data_digest(project)
    _refuse_changes(project, params, data_md5, request)

    # Set the training up with this trial's hyperparameters.
    with of_the_setting():
        params = variant(params, request["values"], seed=request["seed"], cheap=request["cheap"])
    store, experiment = open_store(project, params.tracking), request["experiment"]
    setup = TrainingSetup.prepare(project, params, dataset, data_md5=data_md5, store=store, experiment=experiment)
    work = work_folder(Path(request["folder"]), request["slot"], final=request["final"])
    checkpoints = CheckpointFolder(work, keep=1)
    with setup.claimed(checkpoints, "runs this trial", wait=SECONDS_FOR_ANOTHER):
        with of_the_setting():
            session = setup.session(checkpoints)

        # Train as an MLflow run of its own, below that of the search.
        kind = "final" if request["final"] else "trial"
        run_tags = {"search.study": request["study"], f"search.{kind}": request["slot"]}
        if request["parent"]:
            run_tags["mlflow.parentRunId"] = request["parent"]
        with setup.tracked_run(session, f"{kind}-{request['slot']}", run_tags) as tracked:
            telling = Telling(tracked, answers, told)
            telling.say({"run_id": tracked.id})
            with of_the_setting():
                _train(session, tracked, telling)
    shutil.rmtree(work)


def _refuse_changes(project: Project, params: Params, digest: str, request: Mapping[str, Any]) -> None:
    """Check that this process, which reads everything anew, finds what the search was started with.

    Raises:
        UserError: it does not: the trial would be recorded in a study to which it does not belong.
    """
    name = study_name(params, study_key(project, params, digest))
    if (name, run_key(definition(params.search))) != (request["study"], request["definition"]):
        raise UserError(
            f"params.yaml, the data, the feature network or the code has changed since study {request['study']} was "
            "started: put it back to go on with that study, or leave it to start another"
        )


def told_before(progress: Progress) -> list[Row]:
    """The evaluations that earlier attempts have told of; the training itself tells those that it still holds back."""
    unlogged = {step for step, row in progress.unlogged if measured(row)}
    return [row for row in progress.validation if row["step"] not in unlogged]


def _train(session: Session, tracked: TrackedRun, telling: Telling) -> None:
    try:
        for row in told_before(session.progress):
            telling.tell(measured(row))
        session.train(tracked.id, telling)
        telling.say({"result": measured(session.kept_row)})
        tracked.set_tags({**session.kept.tags, "search.state": "complete"})
    except Pruned:
        tracked.set_tags({"search.state": "pruned"})

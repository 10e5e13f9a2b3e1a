"""One trial of a search, in a process of its own: a training that reports its metrics to its worker."""

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

# An earlier attempt whose worker was killed may still be writing its checkpoint.
SECONDS_FOR_ANOTHER = 60.0


class Pruned(Exception):  # noqa: N818
    """The worker has pruned this trial."""


class HyperparameterError(UserError):
    """An error that this trial's hyperparameters cause: the trial fails."""


class TemporaryError(UserError):
    """An error that every trial would meet here and now: the worker gives the trial back."""

    exit_code = os.EX_TEMPFAIL


@contextmanager
def fail_trial_on_error() -> Iterator[None]:
    """Blame each UserError within this context on the trial's hyperparameters."""
    try:
        yield
    except UserError as error:
        raise HyperparameterError(str(error)) from error


@contextmanager
def give_back_on_error() -> Iterator[None]:
    """Turn every other UserError within this context, and every fault of the system, into a TemporaryError."""
    try:
        yield
    except HyperparameterError:
        raise
    except Exception as error:
        fault = str(error) if isinstance(error, UserError) else system_fault(error)
        if fault is None:
            raise
        raise TemporaryError(fault) from error


class WorkerMessages:
    """The worker's messages, one JSON object a line. When they end, the worker is gone, and this process ends."""

    def __init__(self, lines: IO[bytes]) -> None:
        self._received: queue.Queue[bytes] = queue.Queue()
        self._lines = lines
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            SystemExit: the worker is gone.
        """
        line = self._received.get()
        if not line:
            raise SystemExit(128 + signal.SIGTERM)
        return json.loads(line)

    def _read(self) -> None:
        for line in self._lines:
            self._received.put(line)
        self._received.put(b"")
        # The training stops at once. The next attempt resumes its checkpoint.
        os.kill(os.getpid(), signal.SIGTERM)


class TrialReporter:
    """A training listener that logs to MLflow, and reports validation metrics to the worker."""

    def __init__(self, tracked: TrackedRun, messages: WorkerMessages, output: IO[str]) -> None:
        self._tracked, self._messages, self._output = tracked, messages, output

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracked.log_metrics(step, metrics)
        if validation := only_validation(metrics):
            self.report(validation)

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._tracked.log_image(step, key, image)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._tracked.set_tags(tags)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report metrics and wait for the reply.

        Raises:
            Pruned: the worker has pruned this trial.
        """
        self.send({"metrics": metrics})
        if not self._messages.next()["continue"]:
            raise Pruned

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message and wait for no reply."""
        self._output.write(json.dumps(message) + "\n")
        self._output.flush()


def only_validation(row: Mapping[str, float]) -> dict[str, float]:
    """The validation metrics among those of an evaluation."""
    return {name: value for name, value in row.items() if name.startswith("val_")}


def run(project: Project) -> None:
    """Run the trial that standard input describes; see `cyclegan.search.worker` for the protocol."""
    # Keep standard output for messages: what other code prints goes to standard error.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if sys.stdin.isatty():
        raise UserError("cyclegan search trial: stdin is a terminal; a worker starts this command, see docs/search.md")
    # A duplicate of standard input, because the lock of sys.stdin would be held when Python ends.
    messages = WorkerMessages(os.fdopen(os.dup(sys.stdin.fileno()), "rb"))
    request = messages.next()
    with give_back_on_error():
        _run(project, request, messages, output)


def _run(project: Project, request: Mapping[str, Any], messages: WorkerMessages, output: IO[str]) -> None:
    # Read the data and the parameters, and check that they are those of the search.
    dataset = PackedDataset.open(project.split)
    params = with_objectives(load(project.params), dataset)
    data_md5 = packed_data_digest(project)
    _refuse_changes(project, params, data_md5, request)

    # Set the training up with this trial's hyperparameters.
    with fail_trial_on_error():
        params = variant(params, request["values"], seed=request["seed"], cheap=request["cheap"])
    store, experiment = open_store(project, params.tracking), request["experiment"]
    setup = TrainingSetup.prepare(project, params, dataset, data_md5=data_md5, store=store, experiment=experiment)
    work = work_folder(Path(request["folder"]), request["slot"], final=request["final"])
    checkpoints = CheckpointFolder(work, keep=1)
    with setup.claimed(checkpoints, "runs this trial", wait=SECONDS_FOR_ANOTHER):
        with fail_trial_on_error():
            session = setup.session(checkpoints)

        # Train as an MLflow run of its own, below that of the search.
        kind = "final" if request["final"] else "trial"
        run_tags = {"search.study": request["study"], f"search.{kind}": request["slot"]}
        if request["parent"]:
            run_tags["mlflow.parentRunId"] = request["parent"]
        with setup.tracked_run(session, f"{kind}-{request['slot']}", run_tags) as tracked:
            reporter = TrialReporter(tracked, messages, output)
            reporter.send({"run_id": tracked.id})
            with fail_trial_on_error():
                _train(session, tracked, reporter)
    shutil.rmtree(work)


def _refuse_changes(project: Project, params: Params, digest: str, request: Mapping[str, Any]) -> None:
    """Check that parameters, data and code, which this process reads again, are still those of the study.

    Raises:
        UserError: they have changed, so that the trial belongs to another study.
    """
    name = study_name(params, study_key(project, params, digest))
    if (name, run_key(definition(params.search))) != (request["study"], request["definition"]):
        raise UserError(
            f"study {request['study']}: params.yaml, the data, the feature network or the code has changed since its "
            "start; restore it to continue this study, or run the search again to start another"
        )


def logged_evaluations(progress: Progress) -> list[Row]:
    """The evaluations that earlier attempts logged. The training itself logs those that it still holds back."""
    unlogged = {step for step, row in progress.unlogged if only_validation(row)}
    return [row for row in progress.validation if row["step"] not in unlogged]


def _train(session: Session, tracked: TrackedRun, reporter: TrialReporter) -> None:
    try:
        for row in logged_evaluations(session.progress):
            reporter.report(only_validation(row))
        session.train(tracked.id, reporter)
        reporter.send({"result": only_validation(session.kept_row)})
        tracked.set_tags({**session.kept.tags, "search.state": "complete"})
    except Pruned:
        tracked.set_tags({"search.state": "pruned"})

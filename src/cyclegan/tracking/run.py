"""One training is one MLflow run, however often it is interrupted, and its status is always the truth."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import entities
from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import without_credentials
from cyclegan.system.errors import UserError
from cyclegan.system.locks import held
from cyclegan.system.signals import signals_raise, undisturbed
from cyclegan.tracking.description import DatasetInput, describe
from cyclegan.tracking.entries import ArtifactEntry, EndEntry, Entry, ImageEntry, MetricsEntry, TagsEntry
from cyclegan.tracking.journal import Journal, continued, only_user, write_image
from cyclegan.tracking.mlflow_run import find_run, open_run
from cyclegan.tracking.outbox import Delivery, Past, Sender, deliver_all
from cyclegan.tracking.server_store import impatient
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store
from cyclegan.tracking.system_metrics import PREFIX, host_figures
from cyclegan.tracking.tags import LOCK_TAG, REPLACES_TAG

# A server that needs longer than this is away for now.
PATIENCE_SECONDS = 10

logger = logging.getLogger(__name__)


class TrackedRun:
    """A run that metrics, pictures and files go to.

    Made by `start` for a training, by `offline` for one without a tracking server, by `attach` for later stages.
    """

    def __init__(
        self,
        run_id: str,
        *,
        direct: tuple[Store, Delivery] | None = None,
        journal: Journal | None = None,
        sender: Sender | None = None,
        lock: Path | None = None,
    ) -> None:
        self.id = run_id
        self._direct, self._journal, self._sender, self._lock = direct, journal, sender, lock

    @classmethod
    @contextmanager
    def start(
        cls,
        store: Store,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[DatasetInput] = (),
        resume: str | None = None,
    ) -> Iterator[TrackedRun]:
        """Open a run around a training; host and GPU figures are sampled as long as it is open.

        What is recorded goes into a journal on disk first and from there to the store, which may be away for a while,
        or have lost the run to somebody's tidying: the training goes on. What could not be delivered by the end stays
        in the journal, and a warning says so; see `deliver_waiting`.

        The run ends FINISHED, or FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or SIGHUP; the last two
        raise SystemExit inside the context, unless the program handles them itself.

        Args:
            experiment: its name; created where it does not exist.
            params: flat; written once, values over MLflow's limit are cut, credentials in URIs are left out.
            tags: where a resumed run has one already, it keeps it.
            resume: id of the run to go on with; of `params` it takes those that it does not have yet. If the store no
                longer has it, a new run is opened, with a warning.

        Raises:
            UserError: another live process writes to the run, the store went away, or see `Store.experiment`.
        """
        description = describe(resume, experiment, name, params, tags, inputs)
        with signals_raise(), impatient(PATIENCE_SECONDS):
            with require_store(store):
                found = find_run(store, resume, experiment)
            if resume is not None and found is None:
                logger.warning("MLflow run %s is no longer in %s: a new run is opened", resume, store.shown)
            with _held_lock(store, found) as lock:
                with require_store(store):
                    description.tags[LOCK_TAG] = str(lock)
                    run_id = open_run(store, description, found)
                with (
                    _status_if_not_begun(store, run_id, lock),
                    only_user(store.journals / run_id, wait=2) as free,
                ):
                    if not free:
                        raise UserError(f"{store.journals / run_id} is in use by another process: wait for it")
                    past = None if found is None else Past(store, run_id, keep="any")
                    delivery = Delivery(store, run_id, past)
                    journal = Journal(store.journals / run_id, replace(description, run_id=run_id, opened=True))
                    with require_store(store):
                        # Files can wait until the training runs: each may take as long as a server has to answer.
                        deliver_all(journal, delivery, upload=False)
                        # A finished training that is run again has nothing left to do: killed now, it stays finished.
                        if found is not None and found.info.status != "FINISHED":
                            store.client.update_run(run_id, status="RUNNING")
                    sender = Sender(journal, delivery, store)
                    run = cls(run_id, journal=journal, sender=sender, lock=lock)
                    with _ended(run, journal), host_figures(run._log_host, _next_host_step(found, journal)):
                        yield run

    @classmethod
    @contextmanager
    def offline(
        cls,
        journals: Path,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[DatasetInput] = (),
        resume: str | None = None,
    ) -> Iterator[TrackedRun]:
        """As `start`, but nothing is delivered: all stays in the journal until `deliver_waiting`.

        The run gets an id of its own. The MLflow run that is opened at last has that id as its tag `cyclegan.replaces`,
        by which later stages find it.

        Args:
            journals: the folder of all journals.

        Raises:
            UserError: another live process writes to the run.
        """
        run_id = resume or uuid.uuid4().hex
        description = describe(run_id, experiment, name, params, tags, inputs)
        with signals_raise(), only_user(journals / run_id, wait=2) as free:
            if not free:
                raise UserError(f"{journals / run_id} is being written by another process: wait for it, or end it")
            journal = continued(journals / run_id, description)
            run = cls(run_id, journal=journal)
            with _ended(run, journal), host_figures(run._log_host, _next_host_step(None, journal)):
                yield run

    @classmethod
    def attach(cls, store: Store, run_id: str, *, experiment: str, name: str) -> TrackedRun:
        """Write to a run that has ended, leaving its status, name and end as they are.

        A store that has lost the run (a fresh clone with cached stage outputs, say) gets a finished run in its
        place, with a warning; attaching again finds that same run. What is recorded goes to the store at once, or
        raises a UserError.

        Raises:
            UserError: see `Store.experiment`.
        """
        found = find_run(store, run_id, experiment)
        if found is None:
            lost, experiment_id = run_id, store.experiment(experiment)
            logger.warning("MLflow run %s is not in %s: a run is opened in its place", lost, store.shown)
            run_id = store.client.create_run(experiment_id, tags={REPLACES_TAG: lost}, run_name=name).info.run_id
            store.client.set_terminated(run_id, "FINISHED")
        else:
            run_id = found.info.run_id
        return cls(run_id, direct=(store, Delivery(store, run_id, past=Past(store, run_id, keep="equal"))))

    @classmethod
    @contextmanager
    def attach_offline(cls, journals: Path, run_id: str, *, experiment: str, name: str) -> Iterator[TrackedRun]:
        """As `attach`, but into the run's journal.

        Raises:
            UserError: another live process writes to the run.
        """
        with only_user(journals / run_id, wait=2) as free:
            if not free:
                raise UserError(f"{journals / run_id} is being written by another process: wait for it, or end it")
            description = describe(run_id, experiment, name, {}, {}, ())
            yield cls(run_id, journal=continued(journals / run_id, description))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of a step. NaN is kept as NaN, infinity as the largest float.

        A resumed run keeps the points it has; an attached run keeps those that are equal.
        """
        self.log_rows([(step, metrics)])
        if self._lock is not None:
            # Should the process be killed, this is when its run ended.
            with suppress(FileNotFoundError):
                # Not the file system's own clock, which is coarser and may lie before the points' time.
                os.utime(self._lock, ns=(time.time_ns(), time.time_ns()))

    def log_rows(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Record many steps, `(step, metrics)`, as `log_metrics` does."""
        self._record(
            *(
                MetricsEntry(step=step, values={key: float(value) for key, value in metrics.items()})
                for step, metrics in rows
            )
        )

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Add a picture [H, W, C] (uint8; C = 1, 3 or 4) to the series `key`, which the run's page shows with a slider.

        A resumed run keeps the pictures it has.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"expected a uint8 picture [H, W, C], not {image.dtype} {list(image.shape)}")
        if self._journal is not None:
            self._record(ImageEntry(step=step, key=key, file=self._journal.keep_image(image)))
            return
        with tempfile.TemporaryDirectory() as folder:
            write_image(Path(folder) / "image", image)
            with self._delivering() as delivery:
                delivery.apply([ImageEntry(step=step, key=key, file="image")], Path(folder))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or the contents of a folder, under `folder` of the run's artifacts."""
        if self._journal is not None:
            self._record(ArtifactEntry(folder=folder, file=self._journal.keep_files(path)))
        else:
            with self._delivering() as delivery:
                delivery.log_files(path, folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; what a tag held before is replaced."""
        self._record(TagsEntry(tags={key: without_credentials(str(value)) for key, value in tags.items()}))

    def delivered(self, patience: float = 20.0) -> bool:
        """Wait until the store has all that was recorded so far; False if it did not take it in so many seconds."""
        deadline = time.monotonic() + patience
        while self._journal is not None and len(self._journal) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._journal

    def _record(self, *entries: Entry) -> None:
        if self._journal is None:
            with self._delivering() as delivery:
                delivery.apply(entries, Path())
            return
        if self._sender is not None and self._sender.failure is not None:
            raise self._sender.failure
        self._journal.append(*entries)

    @contextmanager
    def _delivering(self) -> Iterator[Delivery]:
        """The way into the store, of a run that has no journal."""
        assert self._direct is not None
        store, delivery = self._direct
        with require_store(store):
            yield delivery

    def _log_host(self, step: int, metrics: Mapping[str, float]) -> None:
        self.log_rows([(step, metrics)])

    def _end(self, status: str, patience: float, limit: float) -> None:
        """Note how the run ended, and deliver what is left as far as that is possible in so many seconds."""
        assert self._journal is not None
        self._journal.append(EndEntry(status=status))
        if self._lock is not None:
            # From here on the journal knows how the run ended, whether or not the store does.
            self._lock.unlink(missing_ok=True)
        if self._sender is not None:
            if self._sender.finish(patience, limit):
                self._journal.remove()
            elif self._sender.failure is not None:
                raise self._sender.failure
        if len(self._journal):
            logger.warning(
                "%d %s for MLflow run %s wait in %s: 'cyclegan sync', or the next training, delivers them",
                len(self._journal), "entries" if self._journal.pending else "files", self.id, self._journal.folder,
            )  # fmt: skip


def _next_host_step(run: entities.Run | None, journal: Journal) -> int:
    """Host figures have steps of their own, which a resumption goes on with."""
    steps = [
        entry.step
        for entry in journal.all()
        if isinstance(entry, MetricsEntry) and any(key.startswith(PREFIX) for key in entry.values)
    ]
    if run is not None:
        steps += [metric.step for metric in run.data.to_proto().metrics if metric.key.startswith(PREFIX)]
    return max(steps, default=-1) + 1


@contextmanager
def _ended(run: TrackedRun, journal: Journal) -> Iterator[None]:
    """Give the run the status that fits the way in which this context is left."""
    try:
        yield
    except BaseException as error:
        try:
            with undisturbed():
                if isinstance(error, Exception):
                    run._end("FAILED", patience=5, limit=30)
                else:
                    run._end("KILLED", patience=2, limit=3)
        except (OSError, MlflowException) as second:
            # The reason why the training ended must not be hidden behind this.
            logger.warning("MLflow run %s could not be closed: %s", run.id, type(second).__name__)
        raise
    with undisturbed():
        run._end("FINISHED", patience=10, limit=float("inf"))


@contextmanager
def _status_if_not_begun(store: Store, run_id: str, lock: Path) -> Iterator[None]:
    """A run that was opened, and whose training then could not begin, must not stay RUNNING."""
    try:
        yield
    except BaseException as error:
        if lock.exists():
            with suppress(MlflowException), undisturbed():
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                store.client.set_terminated(run_id, status)
                lock.unlink()
        raise


@contextmanager
def _held_lock(store: Store, run: entities.Run | None) -> Iterator[Path]:
    """Hold the run's lock file. It goes when the run is closed; without that, it stays behind, unlocked."""
    path = Path(run.data.tags.get(LOCK_TAG, "")) if run is not None else Path()
    if path.parent != store.locks:
        path = store.locks / f"{uuid.uuid4().hex}.lock"
    with held(path, wait=2) as free:
        if not free:
            assert run is not None
            process = f"process {run.data.tags.get('process.pid')} on {run.data.tags.get('process.host')}"
            raise UserError(f"MLflow run {run.info.run_id} is being written by {process}: wait for it, or end it")
        yield path

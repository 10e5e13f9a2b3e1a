"""One training is one MLflow run, however often it is interrupted, and its status is always the truth."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan.system.credentials import without_credentials
from cyclegan.system.signals import signals_raise
from cyclegan.tracking.delivery import Delivery, Past, deliver_all
from cyclegan.tracking.description import DatasetInput, describe
from cyclegan.tracking.entries import ArtifactEntry, ImageEntry, MetricsEntry, TagsEntry
from cyclegan.tracking.journal import Journal, continued, end_offline, only_writer
from cyclegan.tracking.mlflow_run import find_run, open_run, replace_run, run_to_continue
from cyclegan.tracking.outbox import Outbox
from cyclegan.tracking.run_state import closed_if_not_begun, held_lock, mark_running, recorded_end
from cyclegan.tracking.server_store import impatient
from cyclegan.tracking.sinks import Sink, StoreSink
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store
from cyclegan.tracking.system_metrics import host_metrics, next_host_step
from cyclegan.tracking.tags import LOCK_TAG

# A server that needs longer than this is unavailable for now.
ANSWER_SECONDS = 10


class TrackedRun:
    """A run that metrics, images and files go to: an id, and a sink that takes the entries.

    Made by `start` for a training, by `offline` for one without a tracking server, by `attach` and `attach_offline` for
    later stages.

    Attributes:
        id: MLflow's, or of a run that MLflow does not have yet, one that finds it later.
    """

    def __init__(self, run_id: str, sink: Sink) -> None:
        self.id = run_id
        self._sink = sink

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
        """Open a run around a training; host and GPU metrics are sampled as long as it is open.

        What is recorded goes into a journal on disk first and from there to the store, which may be unavailable for a
        while, or have lost the run to somebody's tidying: the training continues. What could not be delivered by the
        end stays in the journal, and a warning says so; see `deliver_waiting`.

        The run ends FINISHED, or FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or SIGHUP; the last two
        raise SystemExit inside the context, unless the program handles them itself.

        Args:
            experiment: its name; created where it does not exist.
            params: flat; written once, values over MLflow's limit are cut, credentials in URIs are left out.
            tags: where a resumed run has one already, it keeps it.
            resume: id of the run to continue; of `params` it takes those that it does not have yet. If the store no
                longer has it, a new run is opened, with a warning.

        Raises:
            UserError: another live process writes to the run, the store is unavailable, or see `Store.experiment`.
        """
        description = describe(resume, experiment, name, params, tags, inputs)
        with ExitStack() as stack:
            # Let signals raise, and a silent server fail within seconds.
            stack.enter_context(signals_raise())
            stack.enter_context(impatient(ANSWER_SECONDS))
            # Find the run to continue.
            found = run_to_continue(store, resume, experiment)
            # Keep other processes from it.
            lock = stack.enter_context(held_lock(store, found))
            # Create it, or bring it up to date.
            description.tags[LOCK_TAG] = str(lock)
            with require_store(store):
                run_id = open_run(store, description, found)
            stack.enter_context(closed_if_not_begun(store, run_id, lock))
            # Take its journal.
            stack.enter_context(only_writer(store.journals / run_id))
            journal = Journal(store.journals / run_id, replace(description, run_id=run_id, opened=True))
            # Deliver what an earlier process has left in it, and mark the run RUNNING.
            delivery = Delivery(store, run_id, None if found is None else Past(store, run_id, keep="any"))
            with require_store(store):
                # Files can wait until the training runs: each may take as long as a server has to answer.
                deliver_all(journal, delivery, upload=False)
                mark_running(store, found)
            # Deliver what is recorded from now on, and at last how the run ended.
            outbox = Outbox(journal, delivery, store, lock)
            stack.enter_context(recorded_end(run_id, outbox.end))
            # Sample the host's metrics.
            run = cls(run_id, outbox)
            stack.enter_context(host_metrics(run.log_metrics, next_host_step(found, journal)))
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
        with ExitStack() as stack:
            stack.enter_context(signals_raise())
            # Take the run's journal.
            stack.enter_context(only_writer(journals / run_id))
            journal = continued(journals / run_id, description)
            # Record at last how the run ended.
            stack.enter_context(recorded_end(run_id, lambda status: end_offline(journal, status)))
            # Sample the host's metrics.
            run = cls(run_id, journal)
            stack.enter_context(host_metrics(run.log_metrics, next_host_step(None, journal)))
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
        run_id = replace_run(store, run_id, experiment, name) if found is None else found.info.run_id
        return cls(run_id, StoreSink(store, Delivery(store, run_id, past=Past(store, run_id, keep="equal"))))

    @classmethod
    @contextmanager
    def attach_offline(cls, journals: Path, run_id: str, *, experiment: str, name: str) -> Iterator[TrackedRun]:
        """As `attach`, but into the run's journal.

        Raises:
            UserError: another live process writes to the run.
        """
        with only_writer(journals / run_id):
            yield cls(run_id, continued(journals / run_id, describe(run_id, experiment, name, {}, {}, ())))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of a step. NaN is kept as NaN, infinity as the largest float.

        A resumed run keeps the points it has; an attached run keeps those that are equal.
        """
        self.log_rows([(step, metrics)])

    def log_rows(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Record many steps, `(step, metrics)`, as `log_metrics` does."""
        self._sink.append(
            *(
                MetricsEntry(step=step, values={key: float(value) for key, value in metrics.items()})
                for step, metrics in rows
            )
        )

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Add an image [H, W, C] (uint8; C = 1, 3 or 4) to the series `key`, which the run's page shows with a slider.

        A resumed run keeps the images it has.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"expected a uint8 image [H, W, C], not {image.dtype} {list(image.shape)}")
        self._sink.append(ImageEntry(step=step, key=key, file=self._sink.keep_image(image)))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or the contents of a folder, under `folder` of the run's artifacts."""
        self._sink.append(ArtifactEntry(folder=folder, file=self._sink.keep_files(path)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; what a tag held before is replaced."""
        self._sink.append(TagsEntry(tags={key: without_credentials(str(value)) for key, value in tags.items()}))

    def delivered(self, patience: float = 20.0) -> bool:
        """Wait until the store has all that was recorded so far; False if it did not take it in so many seconds."""
        deadline = time.monotonic() + patience
        while len(self._sink) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not len(self._sink)

"""The MLflow run of a training: one run, however often the training is interrupted, with a true status."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from cyclegan.system.credentials import without_credentials
from cyclegan.system.signals import signals_raise
from cyclegan.tracking.delivery import Delivery, RunContents, deliver_all
from cyclegan.tracking.description import DatasetInput, describe
from cyclegan.tracking.entries import ArtifactEntry, ImageEntry, MetricsEntry, TagsEntry
from cyclegan.tracking.journal import Journal, lock_journal, record_offline_end, reopen_journal
from cyclegan.tracking.mlflow_run import find_run, open_run, replace_run, run_to_continue
from cyclegan.tracking.outbox import Outbox
from cyclegan.tracking.run_state import close_if_not_started, hold_lock, mark_running, record_end
from cyclegan.tracking.server_store import short_timeouts
from cyclegan.tracking.sinks import Sink, StoreSink
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store
from cyclegan.tracking.system_metrics import host_metrics, next_host_step
from cyclegan.tracking.tags import LOCK_TAG

# A server that does not answer in this time counts as unavailable.
ANSWER_SECONDS = 10


class TrackedRun:
    """A run that records metrics, images and files: an id, and a sink that takes the entries.

    `start` opens one for a training, `offline` for a training without a store; `attach` and `attach_offline` for later
    stages.

    Attributes:
        id: the id in MLflow, or an id that MLflow stores in the tag `cyclegan.replaces` once the run is delivered.
        url: the address of its page; None unless it was attached to a store.
    """

    def __init__(self, run_id: str, sink: Sink, steps_per_epoch: int | None = None, url: str | None = None) -> None:
        self.id = run_id
        self.url = url
        self._sink = sink
        self._steps_per_epoch = steps_per_epoch

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
        steps_per_epoch: int | None = None,
    ) -> Iterator[TrackedRun]:
        """Open a run around a training, and sample host and GPU metrics while it is open.

        Entries go into a journal on disk, and from there to the store. The training continues if the store becomes
        unavailable or the run is deleted. Entries that are undelivered at the end stay in the journal, with a warning;
        see `deliver_waiting`.

        The run ends FINISHED, or FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or SIGHUP. The last two
        raise SystemExit inside the context, unless the program handles them itself.

        Args:
            params: flat. Values over MLflow's limit are truncated; credentials in URIs are removed.
            tags: a resumed run keeps the first value of each tag.
            resume: id of the run to continue, which keeps its parameters. If it is missing, a new one is opened.
            steps_per_epoch: for the names of images, which have the epoch then.

        Raises:
            UserError: another process writes to the run, the store is unavailable, or the experiment is not writable.
        """
        description = describe(resume, experiment, name, params, tags, inputs)
        with ExitStack() as stack:
            # Turn signals into exceptions, and let a silent server fail within seconds.
            stack.enter_context(signals_raise())
            stack.enter_context(short_timeouts(ANSWER_SECONDS))
            # Find the run to continue.
            existing = run_to_continue(store, resume, experiment)
            # Lock it against other processes.
            lock = stack.enter_context(hold_lock(store, existing))
            # Create it, or update it.
            description.tags[LOCK_TAG] = str(lock)
            with require_store(store):
                run_id = open_run(store, description, existing)
            stack.enter_context(close_if_not_started(store, run_id, lock))
            # Lock and open its journal.
            stack.enter_context(lock_journal(store.journals / run_id))
            journal = Journal(store.journals / run_id, replace(description, run_id=run_id, opened=True))
            # Deliver the entries of an earlier process, and mark the run RUNNING.
            delivery = Delivery(store, run_id, None if existing is None else RunContents(store, run_id, keep="any"))
            with require_store(store):
                # Deliver files later, beside the training: each one may take as long as the server's timeout.
                deliver_all(journal, delivery, upload=False)
                mark_running(store, existing)
            # Deliver new entries, and finally the end of the run.
            outbox = Outbox(journal, delivery, store, lock)
            stack.enter_context(record_end(run_id, outbox.end))
            # Sample the host's metrics.
            run = cls(run_id, outbox, steps_per_epoch)
            stack.enter_context(host_metrics(run.log_metrics, next_host_step(existing, journal)))
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
        steps_per_epoch: int | None = None,
    ) -> Iterator[TrackedRun]:
        """Open a run as `start` does, but keep all entries in the journal until `deliver_waiting`.

        The run gets an id of its own. The MLflow run that is opened later holds it in the tag `cyclegan.replaces`, by
        which later stages find it.

        Args:
            journals: the folder of all journals.

        Raises:
            UserError: another live process writes to the run.
        """
        run_id = resume or uuid.uuid4().hex
        description = describe(run_id, experiment, name, params, tags, inputs)
        with ExitStack() as stack:
            stack.enter_context(signals_raise())
            # Lock and open the run's journal.
            stack.enter_context(lock_journal(journals / run_id))
            journal = reopen_journal(journals / run_id, description)
            # Finally record the end of the run.
            stack.enter_context(record_end(run_id, lambda status: record_offline_end(journal, status)))
            # Sample the host's metrics.
            run = cls(run_id, journal, steps_per_epoch)
            stack.enter_context(host_metrics(run.log_metrics, next_host_step(None, journal)))
            yield run

    @classmethod
    def attach(cls, store: Store, run_id: str, *, experiment: str, name: str) -> TrackedRun:
        """Write to a run that has ended, without changing its status, name or end.

        If the store lacks the run, as in a fresh clone with cached stage outputs, a finished run is created in its
        place, with a warning. Attaching again finds that run. Entries go to the store at once; a UserError is raised
        if it is unavailable.

        Raises:
            UserError: the experiment cannot be written to.
        """
        existing = find_run(store, run_id, experiment)
        run_id = replace_run(store, run_id, experiment, name) if existing is None else existing.info.run_id
        sink = StoreSink(store, Delivery(store, run_id, contents=RunContents(store, run_id, keep="equal")))
        return cls(run_id, sink, url=store.run_url(run_id))

    @classmethod
    @contextmanager
    def attach_offline(cls, journals: Path, run_id: str, *, experiment: str, name: str) -> Iterator[TrackedRun]:
        """Write to a run that has ended as `attach` does, but into its journal.

        Raises:
            UserError: another live process writes to the run.
        """
        with lock_journal(journals / run_id):
            yield cls(run_id, reopen_journal(journals / run_id, describe(run_id, experiment, name, {}, {}, ())))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of a step. NaN stays NaN; infinity becomes the largest float.

        A resumed run ignores a point of a step that it has; an attached run, only one of equal value.
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

    def log_image(self, step: int, key: str, image: np.ndarray) -> str:
        """Store an image [H, W, C] (uint8; C = 1, 3 or 4) as a file such as `samples/AtoB_epoch_006.png`.

        A resumed run keeps its images.

        Args:
            step: the training step.
            key: folder and first part of the file's name, such as `samples/AtoB`.

        Returns:
            The path of the file among the run's artifacts.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"expected a uint8 image [H, W, C], not {image.dtype} {list(image.shape)}")
        epoch, rest = divmod(step, self._steps_per_epoch) if self._steps_per_epoch else (0, 1)
        entry = ImageEntry(step=step, key=key, file=self._sink.keep_image(image), epoch=None if rest else epoch)
        self._sink.append(entry)
        return entry.path

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or the contents of a folder, under `folder` of the run's artifacts."""
        self._sink.append(ArtifactEntry(folder=folder, file=self._sink.keep_files(path)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing earlier values."""
        self._sink.append(TagsEntry(tags={key: without_credentials(str(value)) for key, value in tags.items()}))

    def describe(self, text: str) -> None:
        """Set the run's description, in Markdown. `delivery.RUN_ID` in it stands for the id of the run."""
        self.set_tags({MLFLOW_RUN_NOTE: text})

    def delivered(self, patience: float = 20.0) -> bool:
        """Wait at most `patience` seconds until the store has all entries; return whether it does."""
        deadline = time.monotonic() + patience
        while len(self._sink) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not len(self._sink)

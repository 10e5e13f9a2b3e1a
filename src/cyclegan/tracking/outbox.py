"""The outbox: a thread that delivers a run's journal to MLflow while the training writes it."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from cyclegan.system.credentials import reason
from cyclegan.tracking.delivery import Delivery, deliver_next
from cyclegan.tracking.entries import EndEntry, Entry
from cyclegan.tracking.journal import Journal, warn_of_undelivered
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import describe_refusal, is_permanent

FIRST_PAUSE_SECONDS = 0.5
# Between two attempts to reach a store that is unavailable.
LONGEST_PAUSE_SECONDS = 15.0
# Limits for delivery at the end of a run: seconds without a delivered entry, and seconds in total.
PATIENCE_SECONDS = {"FINISHED": (10.0, float("inf")), "FAILED": (5.0, 30.0), "KILLED": (2.0, 3.0)}

# Why entries cannot be delivered: the store is unavailable, or the run was deleted.
Obstacle = Literal["unavailable", "deleted"]

logger = logging.getLogger(__name__)


class Outbox:
    """The sink of a live run: entries are durable on disk at once, and a thread delivers them to the store.

    The thread keeps trying while the store is unavailable, and while the run is deleted, because a user may restore it.
    Files that are refused do not delay other entries; one of them is retried from time to time.

    Args:
        lock: the run's lock file. Its modification time is that of the latest entry; if the process is killed, it
            becomes the end of the run.
    """

    def __init__(self, journal: Journal, delivery: Delivery, store: Store, lock: Path) -> None:
        self._journal, self._delivery, self._store, self._lock = journal, delivery, store, lock
        self._stopped, self._ending, self._retry_files = threading.Event(), threading.Event(), threading.Event()
        self._obstacle: Obstacle | None = None
        self._refusals: set[str] = set()
        self._pause = self._upload_pause = FIRST_PAUSE_SECONDS
        self._next_upload = 0.0
        self._last_success = time.monotonic()
        self._failure: Exception | None = None
        # A daemon thread does not keep the process alive if the store never answers.
        self._thread = threading.Thread(target=self._run, name="MLflow", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._journal)

    def append(self, *entries: Entry) -> None:
        """Add entries.

        Raises:
            Exception: the exception that ended the thread at an earlier entry.
        """
        if self._failure is not None:
            raise self._failure
        self._journal.append(*entries)
        with suppress(FileNotFoundError):
            # The file system's own clock is coarser, and may be behind the time of the entries.
            os.utime(self._lock, ns=(time.time_ns(), time.time_ns()))

    def keep_image(self, image: np.ndarray) -> str:
        return self._journal.keep_image(image)

    def keep_files(self, path: Path) -> str:
        return self._journal.keep_files(path)

    def end(self, status: str) -> None:
        """Record the end of the run, and deliver the remaining entries within the time limits of its status."""
        self._journal.append(EndEntry(status=status))
        # From here on the journal records the end of the run, so the lock is not needed.
        self._lock.unlink(missing_ok=True)
        if self._finish(*PATIENCE_SECONDS[status]):
            self._journal.remove()
        elif self._failure is not None:
            raise self._failure
        warn_of_undelivered(self._journal)

    def _finish(self, patience: float, limit: float = float("inf")) -> bool:
        """Deliver the remaining entries and end the thread; return whether all were delivered.

        Args:
            patience: seconds without a delivered entry after which to stop.
            limit: seconds in total.
        """
        start = self._last_success = time.monotonic()
        # Retry the refused files once more before leaving them to a later process.
        self._retry_files.set()
        self._ending.set()
        while (
            (self._journal.pending or self._retry_files.is_set())
            and self._failure is None
            and time.monotonic() - start < limit
        ):
            if time.monotonic() - self._last_success > patience:
                break
            time.sleep(0.02)
        self._stopped.set()
        if not self._journal.pending:
            self._thread.join()
        return not len(self._journal)

    def _run(self) -> None:
        """Deliver entries until the end of the run: the main function of the thread."""
        while not self._stopped.is_set():
            self._retry_files_if_due()
            if not self._journal.wait_for_entry(0.2):
                continue
            try:
                refused = deliver_next(self._journal, self._delivery, upload=self._may_upload())
            except Exception as error:
                obstacle = self._obstacle_behind(error)
                if obstacle is None:
                    self._failure = error
                    return
                self._wait_for_store(obstacle, error)
            else:
                self._note_success(refused)

    def _retry_files_if_due(self) -> None:
        if self._retry_files.is_set() or (self._may_upload() and not self._ending.is_set()):
            self._next_upload = 0.0
            self._journal.take_back()
            self._retry_files.clear()

    def _may_upload(self) -> bool:
        return time.monotonic() >= self._next_upload

    def _obstacle_behind(self, error: Exception) -> Obstacle | None:
        """The temporary obstacle that caused an error; None if the error is permanent."""
        if not is_permanent(error):
            return "unavailable"
        try:
            return "deleted" if self._delivery.is_run_deleted() else None
        except Exception as second:
            return None if is_permanent(second) else "unavailable"

    def _wait_for_store(self, obstacle: Obstacle, error: Exception) -> None:
        self._report_obstacle(obstacle, error)
        if self._ending.wait(self._pause):
            self._stopped.wait(FIRST_PAUSE_SECONDS)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _note_success(self, refused: Exception | None) -> None:
        """Reset the pauses, except for files that are refused."""
        self._last_success = time.monotonic()
        if refused is not None:
            self._report_refused(refused)
            if self._journal.aside:
                self._next_upload = self._last_success + self._upload_pause
                self._upload_pause = min(2 * self._upload_pause, LONGEST_PAUSE_SECONDS)
        elif not self._journal.aside:
            self._upload_pause = FIRST_PAUSE_SECONDS
        if self._obstacle is not None:
            subject = f"run {self._delivery.run_id}" if self._obstacle == "deleted" else f"at {self._store.display_uri}"
            logger.warning("MLflow %s is available again: delivering the waiting entries", subject)
        self._pause, self._obstacle = FIRST_PAUSE_SECONDS, None

    def _report_refused(self, error: Exception) -> None:
        """Report once why files are refused."""
        text = describe_refusal(error, self._store)
        if text not in self._refusals:
            self._refusals.add(text)
            logger.warning("%s; files wait in %s", text, self._journal.folder)

    def _report_obstacle(self, obstacle: Obstacle, error: Exception) -> None:
        """Report each obstacle once."""
        if obstacle == self._obstacle:
            return
        self._obstacle, run_id, folder = obstacle, self._delivery.run_id, self._journal.folder
        if obstacle == "deleted":
            logger.warning(
                "MLflow run %s was deleted: the training continues, and its entries wait in %s; run 'mlflow runs "
                "restore --run-id %s', or let 'cyclegan sync' or the next training open a run in its place",
                run_id, folder, run_id,
            )  # fmt: skip
        else:
            logger.warning(
                "MLflow at %s cannot be written (%s): the training continues, and its entries wait in %s",
                self._store.display_uri, reason(error), folder,
            )  # fmt: skip

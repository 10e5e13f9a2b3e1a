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
from cyclegan.tracking.journal import Journal, warn_of_rest
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import is_hopeless, refused_files

FIRST_PAUSE_SECONDS = 0.5
# Between two attempts to reach a store that is unavailable.
LONGEST_PAUSE_SECONDS = 15.0
# How long the end of a run waits: seconds without a delivered entry, and seconds in all.
PATIENCE_SECONDS = {"FINISHED": (10.0, float("inf")), "FAILED": (5.0, 30.0), "KILLED": (2.0, 3.0)}

# What keeps entries from being delivered: the store is unavailable, or the run was deleted.
Obstacle = Literal["unavailable", "deleted"]

logger = logging.getLogger(__name__)


class Outbox:
    """The sink of a live run: entries are durable on disk at once, and a thread brings them to the store.

    The thread keeps trying while the store is unavailable, and while the run is deleted, for which somebody may
    bring it back. Files that alone are refused do not hold up the rest; one of them is tried again from time to time.

    Args:
        lock: the run's lock file, whose time is that of the latest entry: should the process be killed, the run's end.
    """

    def __init__(self, journal: Journal, delivery: Delivery, store: Store, lock: Path) -> None:
        self._journal, self._delivery, self._store, self._lock = journal, delivery, store, lock
        self._over, self._hurry, self._again = threading.Event(), threading.Event(), threading.Event()
        self._obstacle: Obstacle | None = None
        self._refusals: set[str] = set()
        self._pause = self._upload_pause = FIRST_PAUSE_SECONDS
        self._next_upload = 0.0
        self._last_success = time.monotonic()
        self._failure: Exception | None = None
        # A daemon: it must not keep a process alive whose store never answers.
        self._thread = threading.Thread(target=self._run, name="MLflow", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._journal)

    def append(self, *entries: Entry) -> None:
        """Add entries.

        Raises:
            Exception: the one that has ended the thread, for an entry before these.
        """
        if self._failure is not None:
            raise self._failure
        self._journal.append(*entries)
        with suppress(FileNotFoundError):
            # Not the file system's own clock, which is coarser and may lie before the entries' time.
            os.utime(self._lock, ns=(time.time_ns(), time.time_ns()))

    def keep_image(self, image: np.ndarray) -> str:
        return self._journal.keep_image(image)

    def keep_files(self, path: Path) -> str:
        return self._journal.keep_files(path)

    def end(self, status: str) -> None:
        """Record how the run ended, and deliver what is left as far as the status leaves time for it."""
        self._journal.append(EndEntry(status=status))
        # From here on the journal knows how the run ended, whether or not the store does.
        self._lock.unlink(missing_ok=True)
        if self._finish(*PATIENCE_SECONDS[status]):
            self._journal.remove()
        elif self._failure is not None:
            raise self._failure
        warn_of_rest(self._journal)

    def _finish(self, patience: float, limit: float = float("inf")) -> bool:
        """Deliver the rest and end the thread; False if something is left.

        Args:
            patience: seconds without a delivered entry after which it is given up.
            limit: seconds in all.
        """
        start = self._last_success = time.monotonic()
        # Try the files that were refused once more, before they are left to others.
        self._again.set()
        self._hurry.set()
        while (
            (self._journal.pending or self._again.is_set())
            and self._failure is None
            and time.monotonic() - start < limit
        ):
            if time.monotonic() - self._last_success > patience:
                break
            time.sleep(0.02)
        self._over.set()
        if not self._journal.pending:
            self._thread.join()
        return not len(self._journal)

    def _run(self) -> None:
        """What the thread does."""
        while not self._over.is_set():
            self._retry_files_if_due()
            if not self._journal.waiting(0.2):
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
        if self._again.is_set() or (self._may_upload() and not self._hurry.is_set()):
            self._next_upload = 0.0
            self._journal.take_back()
            self._again.clear()

    def _may_upload(self) -> bool:
        return time.monotonic() >= self._next_upload

    def _obstacle_behind(self, error: Exception) -> Obstacle | None:
        """What may pass; None if trying again is in vain."""
        if not is_hopeless(error):
            return "unavailable"
        try:
            return "deleted" if self._delivery.run_is_gone() else None
        except Exception as second:
            return None if is_hopeless(second) else "unavailable"

    def _wait_for_store(self, obstacle: Obstacle, error: Exception) -> None:
        self._report_obstacle(obstacle, error)
        if self._hurry.wait(self._pause):
            self._over.wait(FIRST_PAUSE_SECONDS)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _note_success(self, refused: Exception | None) -> None:
        """Go back to short pauses, except for files that are refused."""
        self._last_success = time.monotonic()
        if refused is not None:
            self._report_refused(refused)
            if self._journal.aside:
                self._next_upload = self._last_success + self._upload_pause
                self._upload_pause = min(2 * self._upload_pause, LONGEST_PAUSE_SECONDS)
        elif not self._journal.aside:
            self._upload_pause = FIRST_PAUSE_SECONDS
        if self._obstacle is not None:
            back = f"run {self._delivery.run_id}" if self._obstacle == "deleted" else f"at {self._store.shown}"
            logger.warning("MLflow %s is back: what had waited is being delivered", back)
        self._pause, self._obstacle = FIRST_PAUSE_SECONDS, None

    def _report_refused(self, error: Exception) -> None:
        """Report once why files are refused."""
        text = refused_files(error, self._store)
        if text not in self._refusals:
            self._refusals.add(text)
            logger.warning("%s; files wait in %s", text, self._journal.folder)

    def _report_obstacle(self, obstacle: Obstacle, error: Exception) -> None:
        """Report once what is in the way."""
        if obstacle == self._obstacle:
            return
        self._obstacle, run_id, folder = obstacle, self._delivery.run_id, self._journal.folder
        if obstacle == "deleted":
            logger.warning(
                "MLflow run %s was deleted: the training goes on, and what it records waits in %s; 'mlflow runs "
                "restore --run-id %s' brings the run back, else 'cyclegan sync', or the next training, opens one in "
                "its place",
                run_id, folder, run_id,
            )  # fmt: skip
        else:
            logger.warning(
                "MLflow at %s cannot be written (%s): the training goes on, and what it records waits in %s",
                self._store.shown, reason(error), folder,
            )  # fmt: skip

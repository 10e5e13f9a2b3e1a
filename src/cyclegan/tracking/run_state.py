"""The state of a run: a lock file while its process lives, and a status when it ends."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import entities
from mlflow.exceptions import MlflowException

from cyclegan.system.errors import UserError
from cyclegan.system.locks import held
from cyclegan.system.signals import undisturbed
from cyclegan.tracking.store import Store
from cyclegan.tracking.tags import LOCK_TAG

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(store: Store, run: entities.Run | None) -> Iterator[Path]:
    """Hold the lock file of a run, or of one that is to be created (None).

    Closing the run removes the file. If the process is killed, the file stays, unlocked.

    Raises:
        UserError: another live process writes to the run.
    """
    path = Path(run.data.tags.get(LOCK_TAG, "")) if run is not None else Path()
    if path.parent != store.locks:
        path = store.locks / f"{uuid.uuid4().hex}.lock"
    with held(path, wait=2) as free:
        if not free:
            assert run is not None
            process = f"process {run.data.tags.get('process.pid')} on {run.data.tags.get('process.host')}"
            raise UserError(f"MLflow run {run.info.run_id}: {process} writes to it; wait for that process, or end it")
        yield path


def mark_running(store: Store, existing: entities.Run | None) -> None:
    """Mark a continued run RUNNING. A new run (None) already is."""
    # A finished training has no steps left: it stays FINISHED even if the process is killed now.
    if existing is not None and existing.info.status != "FINISHED":
        store.client.update_run(existing.info.run_id, status="RUNNING")


@contextmanager
def close_if_not_started(store: Store, run_id: str, lock: Path) -> Iterator[None]:
    """Close a run whose training could not start, so that it does not stay RUNNING."""
    try:
        yield
    except BaseException as error:
        if lock.exists():
            with suppress(MlflowException), undisturbed():
                store.client.set_terminated(run_id, _status_after(error))
                lock.unlink()
        raise


@contextmanager
def record_end(run_id: str, end: Callable[[str], None]) -> Iterator[None]:
    """End a run with the status that matches how this context exits.

    Args:
        end: receives the status.
    """
    try:
        yield
    except BaseException as error:
        try:
            with undisturbed():
                end(_status_after(error))
        except (OSError, MlflowException) as second:
            # Do not hide the exception that ended the training.
            logger.warning("MLflow run %s could not be closed: %s", run_id, type(second).__name__)
        raise
    with undisturbed():
        end("FINISHED")


def _status_after(error: BaseException) -> str:
    return "FAILED" if isinstance(error, Exception) else "KILLED"

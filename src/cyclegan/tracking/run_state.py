"""The state of a run: its lock while its process lives, its status when it ends."""

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
def held_lock(store: Store, run: entities.Run | None) -> Iterator[Path]:
    """Hold a run's lock file; None: of a run that is to be created.

    The file goes when the run is closed; without that, it stays behind, unlocked.

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
            raise UserError(f"MLflow run {run.info.run_id} is being written by {process}: wait for it, or end it")
        yield path


def mark_running(store: Store, found: entities.Run | None) -> None:
    """Mark a continued run RUNNING; None: it is new, and is so already."""
    # A finished training that is run again has nothing left to do: killed now, it stays finished.
    if found is not None and found.info.status != "FINISHED":
        store.client.update_run(found.info.run_id, status="RUNNING")


@contextmanager
def closed_if_not_begun(store: Store, run_id: str, lock: Path) -> Iterator[None]:
    """Close a run that was opened, and whose training then could not begin: it must not stay RUNNING."""
    try:
        yield
    except BaseException as error:
        if lock.exists():
            with suppress(MlflowException), undisturbed():
                store.client.set_terminated(run_id, _status_after(error))
                lock.unlink()
        raise


@contextmanager
def recorded_end(run_id: str, end: Callable[[str], None]) -> Iterator[None]:
    """Give a run the status that fits the way in which this context is left.

    Args:
        end: is given the status.
    """
    try:
        yield
    except BaseException as error:
        try:
            with undisturbed():
                end(_status_after(error))
        except (OSError, MlflowException) as second:
            # The reason why the training ended must not be hidden behind this.
            logger.warning("MLflow run %s could not be closed: %s", run_id, type(second).__name__)
        raise
    with undisturbed():
        end("FINISHED")


def _status_after(error: BaseException) -> str:
    return "FAILED" if isinstance(error, Exception) else "KILLED"

"""Recovery of what earlier trainings left: undelivered journals, and runs of processes that were killed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from mlflow import entities
from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason
from cyclegan.system.locks import held
from cyclegan.tracking.delivery import Delivery, Past, deliver_all
from cyclegan.tracking.journal import ABOUT, ENTRIES, Journal, JournalError, journals, only_user
from cyclegan.tracking.mlflow_run import find_run, open_run
from cyclegan.tracking.store import ExperimentError, Store, all_found
from cyclegan.tracking.store_errors import is_hopeless, refused_files, require_store
from cyclegan.tracking.tags import LOCK_TAG

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """What became of the journals that trainings have left behind."""

    entries: dict[str, int]
    """How many were delivered, for each MLflow run."""

    left: list[Path]
    """The folders of journals that cannot be delivered."""


def deliver_waiting(store: Store) -> Delivered:
    """Deliver the journals that trainings have left behind.

    Those of trainings that are still alive are left to them. A run whose trainer vanished without saying how it ended
    becomes KILLED. A journal that cannot be delivered (its experiment was deleted, say) is left, with a warning.

    Raises:
        UserError: the store became unavailable meanwhile; what is left stays in its journal.
    """
    entries, left = dict[str, int](), list[Path]()
    for folder in journals(store.journals):
        with only_user(folder) as free, require_store(store):
            # It may have been delivered by another process since it was listed.
            if not free or not (folder / ABOUT).is_file():
                continue
            try:
                run_id, count, refused = _deliver(store, folder)
            except (ExperimentError, JournalError, MlflowException) as error:
                logger.warning("%s cannot be delivered: %s, or delete that folder", folder, _lasting(error, store))
                left.append(folder)
                continue
            if count:
                entries[run_id] = count
            if refused is not None:
                logger.warning("%s; %s waits", refused_files(refused, store), folder)
                left.append(folder)
    return Delivered(entries, left)


def _lasting(error: ExperimentError | JournalError | MlflowException, store: Store) -> str:
    """Why a journal cannot be delivered, and what to do; an error that may pass is raised again."""
    if not isinstance(error, MlflowException):
        return error.fault
    if not is_hopeless(error):
        raise error
    return f"MLflow at {store.shown} refuses a part of it ({reason(error)}); fix that in {ENTRIES}"


def _deliver(store: Store, folder: Path) -> tuple[str, int, Exception | None]:
    """Deliver a journal, and remove it unless files are refused.

    Returns:
        the run, the number of entries that were delivered, and why files were refused.
    """
    journal = Journal(folder)
    description, count, last = journal.description, len(journal), [*journal.all()][-1:]
    found = find_run(store, description.run_id, description.experiment)
    if found is None and not count and description.opened:
        # The store has lost the run, and there is nothing to deliver.
        journal.remove()
        return folder.name, 0, None
    run_id = open_run(store, description, found)
    refused = deliver_all(journal, Delivery(store, run_id, Past(store, run_id, keep="any")))
    run = store.client.get_run(run_id)
    if run.info.status == "RUNNING" and LOCK_TAG not in run.data.tags:
        end = last[0].time if last else description.time
        store.client.set_terminated(run_id, "KILLED", end)
    journal.remove()
    return run_id, count - len(journal), refused


def close_stale_runs(store: Store, experiment: str) -> list[str]:
    """Mark as KILLED every RUNNING run whose process on this machine is gone; return their ids.

    MLflow leaves the run of a killed process RUNNING for ever. Runs of other machines are left alone.
    """
    with require_store(store):
        experiment_id, running = store.experiment(experiment), "attributes.status = 'RUNNING'"
        found = all_found(store.client.search_runs, [experiment_id], running)
        return [run.info.run_id for run in found if _close_if_stale(store, run)]


def _close_if_stale(store: Store, run: entities.Run) -> bool:
    path = Path(run.data.tags.get(LOCK_TAG, ""))
    if path.parent != store.locks or not path.exists():
        return False
    last_sign = path.stat().st_mtime
    with held(path) as free:
        # It may have ended by itself since the search.
        stale = free and store.client.get_run(run.info.run_id).info.status == "RUNNING"
        if stale:
            end = max(int(last_sign * 1000), run.info.start_time)
            store.client.set_terminated(run.info.run_id, "KILLED", end)
            logger.warning("MLflow run %s was left RUNNING by a process that is gone: now KILLED", run.info.run_id)
        if free:
            path.unlink(missing_ok=True)
    return stale

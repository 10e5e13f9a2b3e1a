"""Recovery after earlier trainings: undelivered journals, and runs of killed processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from mlflow import entities
from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason
from cyclegan.system.locks import held
from cyclegan.tracking.delivery import Delivery, RunContents, deliver_all
from cyclegan.tracking.journal import ABOUT, ENTRIES, Journal, JournalError, journals, try_lock_journal
from cyclegan.tracking.mlflow_run import find_run, open_run
from cyclegan.tracking.store import ExperimentError, Store, search_all
from cyclegan.tracking.store_errors import describe_refusal, is_permanent, require_store
from cyclegan.tracking.tags import LOCK_TAG

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """The result of delivering the journals of earlier trainings."""

    entries: dict[str, int]
    """The number of delivered entries for each MLflow run."""

    left: list[Path]
    """The folders of journals that cannot be delivered."""


def deliver_waiting(store: Store) -> Delivered:
    """Deliver the journals of trainings that have ended.

    A run whose process ended without recording a status becomes KILLED. A journal that cannot be delivered, for example
    because its experiment was deleted, stays, with a warning.

    Raises:
        UserError: the store became unavailable; undelivered entries stay in their journals.
    """
    entries, left = dict[str, int](), list[Path]()
    for folder in journals(store.journals):
        with try_lock_journal(folder) as free, require_store(store):
            # Another process may have delivered it since it was listed.
            if not free or not (folder / ABOUT).is_file():
                continue
            try:
                run_id, count, refused = _deliver(store, folder)
            except (ExperimentError, JournalError, MlflowException) as error:
                logger.warning(
                    "%s cannot be delivered: %s, or delete the folder", folder, _permanent_fault(error, store)
                )
                left.append(folder)
                continue
            if count:
                entries[run_id] = count
            if refused is not None:
                logger.warning("%s; files wait in %s", describe_refusal(refused, store), folder)
                left.append(folder)
    return Delivered(entries, left)


def _permanent_fault(error: ExperimentError | JournalError | MlflowException, store: Store) -> str:
    """The permanent fault of a journal, with the remedy; a temporary error is raised again."""
    if not isinstance(error, MlflowException):
        return error.fault
    if not is_permanent(error):
        raise error
    return f"MLflow at {store.display_uri} refuses an entry ({reason(error)}); fix it in {ENTRIES}"


def _deliver(store: Store, folder: Path) -> tuple[str, int, Exception | None]:
    """Deliver a journal, and remove it unless files are refused.

    Returns:
        The run id, the number of delivered entries, and why files were refused.
    """
    journal = Journal(folder)
    description, count, last = journal.description, len(journal), [*journal.all()][-1:]
    existing = find_run(store, description.run_id, description.experiment)
    if existing is None and not count and description.opened:
        # The store has lost the run, and there is nothing to deliver.
        journal.remove()
        return folder.name, 0, None
    run_id = open_run(store, description, existing)
    refused = deliver_all(journal, Delivery(store, run_id, RunContents(store, run_id, keep="any")))
    run = store.client.get_run(run_id)
    if run.info.status == "RUNNING" and LOCK_TAG not in run.data.tags:
        end = last[0].time if last else description.time
        store.client.set_terminated(run_id, "KILLED", end)
    journal.remove()
    return run_id, count - len(journal), refused


def close_stale_runs(store: Store, experiment: str) -> list[str]:
    """Mark every RUNNING run whose process on this machine has ended as KILLED; return their ids.

    MLflow leaves the run of a killed process RUNNING forever. Runs of other machines do not change.
    """
    with require_store(store):
        experiment_id, running = store.experiment(experiment), "attributes.status = 'RUNNING'"
        runs = search_all(store.client.search_runs, [experiment_id], running)
        return [run.info.run_id for run in runs if _close_if_stale(store, run)]


def _close_if_stale(store: Store, run: entities.Run) -> bool:
    path = Path(run.data.tags.get(LOCK_TAG, ""))
    if path.parent != store.locks or not path.exists():
        return False
    last_entry = path.stat().st_mtime
    with held(path) as free:
        # The run may have ended since the search.
        stale = free and store.client.get_run(run.info.run_id).info.status == "RUNNING"
        if stale:
            end = max(int(last_entry * 1000), run.info.start_time)
            store.client.set_terminated(run.info.run_id, "KILLED", end)
            logger.warning("MLflow run %s was left RUNNING by a process that ended: marked KILLED", run.info.run_id)
        if free:
            path.unlink(missing_ok=True)
    return stale

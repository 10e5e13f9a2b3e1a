"""Finding, creating and updating a run in MLflow's store."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from mlflow import entities
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from cyclegan.tracking.delivery import Delivery, batches
from cyclegan.tracking.description import DatasetInput, RunDescription, tags_of_resumption
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store
from cyclegan.tracking.tags import LOCK_TAG, PROCESS_TAGS, REPLACES_TAG

logger = logging.getLogger(__name__)


def open_run(store: Store, description: RunDescription, existing: entities.Run | None) -> str:
    """Create a run, or update the existing one; return its id.

    Values over MLflow's limit are truncated.
    """
    if existing is None:
        experiment_id = store.experiment(description.experiment)
        tags = {key: description.tags[key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in description.tags}
        if description.run_id is not None:
            tags[REPLACES_TAG] = description.run_id
        run_id = store.client.create_run(experiment_id, description.time, tags, description.name).info.run_id
        new = description.tags
    else:
        run_id, stored = existing.info.run_id, existing.data.tags
        new = {key: value for key, value in description.tags.items() if key not in stored}
        new |= tags_of_resumption(stored, description.tags)
    # An existing run may lack tags: its process may have been killed right after creating it.
    Delivery(store, run_id).set_tags(new)
    params = {key: _truncated(value) for key, value in description.params.items()}
    if existing is not None:
        params = _unwritten_params(params, existing)
    for batch in batches([entities.Param(key, value) for key, value in params.items()]):
        store.client.log_batch(run_id, params=batch, synchronous=True)
    _log_inputs(store, run_id, description.inputs)
    return run_id


def find_run(store: Store, run_id: str | None, experiment: str) -> entities.Run | None:
    """Find the run of this id, or the run that replaced it; None if neither exists."""
    if run_id is None:
        return None
    if found := store.run(run_id):
        return found
    replacements = store.client.search_runs(
        [store.experiment(experiment)], f"tags.`{REPLACES_TAG}` = '{run_id}'", max_results=1
    )
    return replacements[0] if replacements else None


def run_to_continue(store: Store, run_id: str | None, experiment: str) -> entities.Run | None:
    """Find the run that a training continues; warn and return None if the store no longer has it.

    Raises:
        UserError: the store is unavailable.
    """
    with require_store(store):
        found = find_run(store, run_id, experiment)
    if run_id is not None and found is None:
        logger.warning("MLflow run %s is no longer in %s: opening a new run", run_id, store.display_uri)
    return found


def replace_run(store: Store, lost: str, experiment: str, name: str) -> str:
    """Warn that the store lacks a run, and create a finished run in its place; return its id."""
    experiment_id = store.experiment(experiment)
    logger.warning("MLflow run %s is not in %s: opening a run in its place", lost, store.display_uri)
    run_id = store.client.create_run(experiment_id, tags={REPLACES_TAG: lost}, run_name=name).info.run_id
    store.client.set_terminated(run_id, "FINISHED")
    return run_id


def _unwritten_params(params: Mapping[str, str], run: entities.Run) -> dict[str, str]:
    """The parameters that the run lacks. Warns of changed values: MLflow keeps the first value of a parameter."""
    stored = run.data.params
    differing = sorted(key for key, value in params.items() if key in stored and stored[key] != value)
    if differing:
        logger.warning("MLflow run %s keeps its first values of %s", run.info.run_id, ", ".join(differing))
    return {key: value for key, value in params.items() if key not in stored}


def _truncated(text: str) -> str:
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


def _log_inputs(store: Store, run_id: str, inputs: Sequence[DatasetInput]) -> None:
    datasets = [
        entities.DatasetInput(
            entities.Dataset(item.name, item.digest, "local", json.dumps({"uri": item.source})),
            [entities.InputTag("mlflow.data.context", item.context)],
        )
        for item in inputs
    ]
    if datasets:
        store.client.log_inputs(run_id, datasets)

"""Opening an MLflow run, from what is known of it now or was written down when MLflow was away."""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow import entities
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from cyclegan.system.credentials import reason, without_credentials
from cyclegan.system.errors import UserError, system_fault
from cyclegan.tracking.journal import ABOUT, Journal
from cyclegan.tracking.outbox import Delivery, batches, is_hopeless
from cyclegan.tracking.store import LOCK_TAG, Store, access_remedy
from cyclegan.tracking.uploads import lasting_refusal, refused_files

# On a run that was opened in place of an id that the store does not know: it lost that run, or never had it, offline.
REPLACES_TAG = "cyclegan.replaces"
PROCESS_TAGS = ("process.pid", "process.host", "mlflow.user")
# Where a resumption differs in these from the first process, it is noted beside them.
RESUMED_TAGS = {"git.commit": "cyclegan.resumed_at_commit", "device": "cyclegan.resumed_on_device"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run read, as MLflow lists it."""

    name: str
    digest: str
    """At most 36 characters: DVC's md5 of the folder."""
    source: str
    context: str
    """What the run used it for, such as `training`."""


def description(
    run_id: str | None,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    inputs: Sequence[DatasetInput],
) -> dict[str, Any]:
    """All that is needed to open a run, now or later; values over MLflow's limit are cut, credentials left out."""
    return {
        "run_id": run_id,
        "experiment": experiment,
        "name": name,
        "time": time.time_ns() // 1_000_000,
        "params": {key: _fit(value) for key, value in params.items()},
        "tags": {key: without_credentials(str(value)) for key, value in (tags or {}).items()}
        | {"process.pid": str(os.getpid()), "process.host": socket.gethostname(), "mlflow.user": _user()},
        "inputs": [{**asdict(item), "source": without_credentials(item.source)} for item in inputs],
    }


def merged(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier process wrote down of the same run comes first."""
    if not (folder / ABOUT).is_file():
        return about
    before = Journal(folder).about
    tags = {**about["tags"], **before["tags"], **_of_this_process(before["tags"], about["tags"])}
    return {**about, **before, "tags": tags, "params": {**about["params"], **before["params"]}}


def open_run(store: Store, about: Mapping[str, Any], found: entities.Run | None) -> str:
    """Create the run, or bring one up to date; return its id."""
    if found is None:
        experiment_id = store.experiment(about["experiment"])
        tags = {key: about["tags"][key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in about["tags"]}
        if about["run_id"] is not None:
            tags[REPLACES_TAG] = about["run_id"]
        run_id = store.client.create_run(experiment_id, about["time"], tags, about["name"]).info.run_id
        new = dict(about["tags"])
    else:
        run_id, before = found.info.run_id, found.data.tags
        new = {key: value for key, value in about["tags"].items() if key not in before}
        new |= _of_this_process(before, about["tags"])
    # On a run that was there, too: its process may have been killed between creating it and this.
    Delivery(store, run_id).set_tags(new)
    params = about["params"] if found is None else _not_written_before(about["params"], found)
    for batch in batches([entities.Param(key, value) for key, value in params.items()]):
        store.client.log_batch(run_id, params=batch, synchronous=True)
    _log_inputs(store, run_id, [DatasetInput(**item) for item in about["inputs"]])
    return run_id


def find_run(store: Store, run_id: str, experiment: str) -> entities.Run | None:
    """The run of this id, or the one that was opened in its place; None if there is neither."""
    if found := store.run(run_id):
        return found
    ours = store.client.search_runs(
        [store.experiment(experiment)], f"tags.`{REPLACES_TAG}` = '{run_id}'", max_results=1
    )
    return ours[0] if ours else None


@contextmanager
def away_is_an_error(store: Store) -> Iterator[None]:
    """For what cannot go on without the store: one line that says what can be done."""
    try:
        yield
    except Exception as error:
        if lasting_refusal(error, store):
            raise UserError(refused_files(error, store)) from error
        # A server's refusal of a file is an OSError of requests', without a number; those of this machine tell
        # themselves.
        if is_hopeless(error) or (isinstance(error, OSError) and system_fault(error)):
            raise
        remedy = access_remedy(error, store.uri) or (
            "bring it back, or set tracking.offline: true to do without it and deliver later"
        )
        raise UserError(
            f"MLflow at {store.shown} went away or refuses to be written: {remedy} ({reason(error)})"
        ) from error


def _of_this_process(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The tags that a resumption replaces or adds; all others keep what they held first."""
    replaced = {key: now[key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in now}
    for key, tag in RESUMED_TAGS.items():
        if key in now and before.get(key, now[key]) != now[key]:
            replaced[tag] = now[key]
    return replaced


def _not_written_before(params: Mapping[str, str], run: entities.Run) -> dict[str, str]:
    """MLflow writes a parameter once: those that have another value now keep the first one, with a warning."""
    stored = run.data.params
    differing = sorted(key for key, value in params.items() if key in stored and stored[key] != value)
    if differing:
        logger.warning("MLflow run %s keeps its first values of %s", run.info.run_id, ", ".join(differing))
    return {key: value for key, value in params.items() if key not in stored}


def _fit(value: Any) -> str:
    text = without_credentials(str(value))
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return str(os.getuid())


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

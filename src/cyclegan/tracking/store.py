"""Where MLflow keeps runs, models and artifacts.

By default `mlruns/mlflow.db` and `mlruns/artifacts` of the user's project. `tracking.uri` comes before the
environment's `MLFLOW_TRACKING_URI`, and that before the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.system.credentials import refuse_unescaped, shown_address
from cyclegan.system.errors import UserError
from cyclegan.tracking.moved_project import path_of
from cyclegan.tracking.server_store import open_server
from cyclegan.tracking.sql_store import SCHEMES, open_sql
from cyclegan.tracking.sqlite_store import database_file, open_sqlite, sqlite_uri
from cyclegan.tracking.tags import ARTIFACTS_TAG

Found = TypeVar("Found")


class ExperimentError(UserError):
    """An experiment cannot be written to.

    Attributes:
        fault: why not, and the remedy where its runs are to stay in it.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}, or set another tracking.experiment")
        self.fault = fault


@dataclass(frozen=True)
class Store:
    """An opened MLflow store: tracking and registry in one."""

    uri: str = field(repr=False)
    """May hold a database's password: print `shown` instead."""

    client: MlflowClient = field(repr=False)

    locks: Path
    """Folder with one file per live run on this machine, locked by the run's process."""

    journals: Path
    """Folder with the journals of the runs of this project that have not been delivered."""

    artifacts: str | None
    """Artifact location of new experiments; None where a server decides."""

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        return shown_address(self.uri)

    def run(self, run_id: str) -> Run | None:
        """The run of this id; None if it was deleted, or if there is none."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def experiment(self, name: str) -> str:
        """Return the id of the experiment `name`, created where it does not exist.

        Raises:
            ExperimentError: it was deleted, or it can only be written through a server.
        """
        found = self.client.get_experiment_by_name(name) or self._create(name)
        if found.lifecycle_stage == "deleted":
            raise ExperimentError(
                f"MLflow experiment {name!r} was deleted: bring it back with 'mlflow experiments restore "
                f"--experiment-id {found.experiment_id}'"
            )
        if self.artifacts is not None and found.artifact_location.startswith("mlflow-artifacts:"):
            raise ExperimentError(
                f"MLflow experiment {name!r} was created through an MLflow server, and only through one can its "
                "artifacts be written: set MLFLOW_TRACKING_URI to the server"
            )
        return str(found.experiment_id)

    def _create(self, name: str) -> Experiment:
        # Created from here and not by a server, which would make its artifacts unreachable without the server.
        tags = None if self.artifacts is None else {ARTIFACTS_TAG: self.artifacts}
        try:
            created = self.client.create_experiment(name, self.artifacts, tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = self.client.get_experiment_by_name(name)
            assert found is not None
            return found
        return self.client.get_experiment(created)


def open_store(project: Project, tracking: Tracking) -> Store:
    """Open the store, creating it where it does not exist yet, and make it MLflow's current one.

    Any number of processes may do so at once. A store that moved with its project (the folder was renamed or
    copied) is adapted: its links to artifacts then point to where the artifacts are now, and a warning says so.

    Raises:
        UserError: the store cannot be reached, read or written, or is of a kind that is not supported.
    """
    uri, origin = _wanted(project, tracking)
    refuse_unescaped(origin, uri)
    kind = uri.partition("://")[0].partition("+")[0].lower()
    if kind == "sqlite":
        store = _sqlite(database_file(uri, origin, project), project)
    elif kind in ("http", "https"):
        client = open_server(uri, origin)
        store = Store(client.tracking_uri, client, _locks(project), waiting(project), artifacts=None)
    elif kind in SCHEMES:
        locks, artifacts = _locks(project), (project.mlruns.resolve() / "artifacts").as_uri()
        client = open_sql(uri, origin, locks.parent / "mlflow.lock")
        store = Store(uri, client, locks, waiting(project), artifacts)
    else:
        raise UserError(
            f"{origin} = {shown_address(uri)}: not supported, and neither are folders as stores; use "
            "sqlite:///FILE, http(s)://SERVER or postgresql://…, or leave it empty ('mlflow migrate-filestore "
            "--source FOLDER --target sqlite:///FILE' converts a folder)"
        )
    _make_current(store.uri)
    return store


def waiting(project: Project) -> Path:
    """The folder of the journals, in which entries wait while the store is unavailable."""
    return project.mlruns.resolve() / "waiting"


def _wanted(project: Project, tracking: Tracking) -> tuple[str, str]:
    """The URI, and who asked for it."""
    if tracking.uri:
        return tracking.uri, "tracking.uri"
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given, "MLFLOW_TRACKING_URI"
    return sqlite_uri(project.mlruns.resolve() / "mlflow.db"), "the default store"


def _sqlite(database: Path, project: Project) -> Store:
    locks, artifacts = database.parent / "running", (database.parent / "artifacts").as_uri()
    return Store(sqlite_uri(database), open_sqlite(database, locks), locks, waiting(project), artifacts)


def _locks(project: Project) -> Path:
    folder = project.mlruns.resolve() / "running"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _make_current(uri: str) -> None:
    """Point MLflow's module-level functions and `models:/` URIs to this store as well."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    # MLflow has also put it into the environment, where the next project to be opened would take it for the user's.
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def local_path(location: str) -> Path | None:
    """The folder that an artifact location names on this machine; None for one that lies elsewhere."""
    if location.startswith("/"):
        return Path(location)
    return path_of(location) if urlsplit(location).scheme == "file" else None


def all_found(search: Callable[..., PagedList[Found]], *arguments: Any, **options: Any) -> list[Found]:
    """All results of one of MLflow's searches, which return a page at a time."""
    page = search(*arguments, **options)
    found = list(page)
    while page.token:
        page = search(*arguments, **options, page_token=page.token)
        found += page
    return found

"""The MLflow store of runs, models and artifacts.

The default is `mlruns/mlflow.db` and `mlruns/artifacts` in the user's project. `tracking.uri` takes precedence, then
the environment's `MLFLOW_TRACKING_URI`.
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

# The address of `make ui`.
LOCAL_UI = "http://127.0.0.1:5000"


class ExperimentError(UserError):
    """An experiment cannot be written to.

    Attributes:
        fault: the cause, and the remedy that keeps the experiment.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}, or set another tracking.experiment")
        self.fault = fault


@dataclass(frozen=True)
class Store:
    """An opened MLflow store: tracking and registry in one."""

    uri: str = field(repr=False)
    """May hold a password: print `display_uri` instead."""

    client: MlflowClient = field(repr=False)

    locks: Path
    """The folder with one lock file for each live run on this machine."""

    journals: Path
    """The folder with the undelivered journals of this project."""

    artifacts: str | None
    """The artifact location of new experiments; None if a server decides."""

    @property
    def display_uri(self) -> str:
        """The URI without credentials."""
        return shown_address(self.uri)

    def run_url(self, run_id: str) -> str:
        """The address of a run's page: on the server, or in the UI that `make ui` starts for other stores."""
        base = self.display_uri.rstrip("/") if self.uri.startswith(("http://", "https://")) else LOCAL_UI
        return f"{base}/#/experiments/{self.client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    def run(self, run_id: str) -> Run | None:
        """The run of this id; None if it is deleted or missing."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, which is created if missing.

        Raises:
            ExperimentError: the experiment is deleted, or can only be written through a server.
        """
        found = self.client.get_experiment_by_name(name) or self._create(name)
        if found.lifecycle_stage == "deleted":
            raise ExperimentError(
                f"MLflow experiment {name!r} was deleted; restore it with 'mlflow experiments restore "
                f"--experiment-id {found.experiment_id}'"
            )
        if self.artifacts is not None and found.artifact_location.startswith("mlflow-artifacts:"):
            raise ExperimentError(
                f"MLflow experiment {name!r} was created by an MLflow server, which alone can write its artifacts; set "
                "MLFLOW_TRACKING_URI to the server"
            )
        return str(found.experiment_id)

    def _create(self, name: str) -> Experiment:
        # Set the artifact location here: one that a server sets can only be used through that server.
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
    """Open the store, create it if it is missing, and make it MLflow's current one.

    Any number of processes may do so at once. If the project's folder was renamed or copied, the store's links to
    artifacts are adapted, with a warning.

    Raises:
        UserError: the store is unavailable, cannot be read or written, or is of an unsupported kind.
    """
    uri, origin = _configured_uri(project, tracking)
    refuse_unescaped(origin, uri)
    kind = uri.partition("://")[0].partition("+")[0].lower()
    if kind == "sqlite":
        store = _sqlite(database_file(uri, origin, project), project)
    elif kind in ("http", "https"):
        client = open_server(uri, origin)
        store = Store(client.tracking_uri, client, _locks(project), journals_folder(project), artifacts=None)
    elif kind in SCHEMES:
        locks, artifacts = _locks(project), (project.mlruns.resolve() / "artifacts").as_uri()
        client = open_sql(uri, origin, locks.parent / "mlflow.lock")
        store = Store(uri, client, locks, journals_folder(project), artifacts)
    else:
        raise UserError(
            f"{origin} = {shown_address(uri)}: not supported; use sqlite:///FILE, http(s)://SERVER or postgresql://…, "
            "or leave it empty ('mlflow migrate-filestore --source FOLDER --target sqlite:///FILE' converts a folder)"
        )
    _make_current(store.uri)
    return store


def journals_folder(project: Project) -> Path:
    """The folder of the journals, which hold entries while the store is unavailable."""
    return project.mlruns.resolve() / "waiting"


def _configured_uri(project: Project, tracking: Tracking) -> tuple[str, str]:
    """The URI, and the key or variable that holds it."""
    if tracking.uri:
        return tracking.uri, "tracking.uri"
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given, "MLFLOW_TRACKING_URI"
    return sqlite_uri(project.mlruns.resolve() / "mlflow.db"), "the default store"


def _sqlite(database: Path, project: Project) -> Store:
    locks, artifacts = database.parent / "running", (database.parent / "artifacts").as_uri()
    return Store(sqlite_uri(database), open_sqlite(database, locks), locks, journals_folder(project), artifacts)


def _locks(project: Project) -> Path:
    folder = project.mlruns.resolve() / "running"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _make_current(uri: str) -> None:
    """Point MLflow's module-level functions and `models:/` URIs to this store as well."""
    previous = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    # MLflow also sets the variable. The next project to be opened would take it for the user's.
    if previous is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = previous


def local_path(location: str) -> Path | None:
    """The local folder of an artifact location; None if it is elsewhere."""
    if location.startswith("/"):
        return Path(location)
    return path_of(location) if urlsplit(location).scheme == "file" else None


def search_all(search: Callable[..., PagedList[Found]], *arguments: Any, **options: Any) -> list[Found]:
    """All results of an MLflow search, which returns one page at a time."""
    page = search(*arguments, **options)
    found = list(page)
    while page.token:
        page = search(*arguments, **options, page_token=page.token)
        found += page
    return found

"""Where MLflow keeps runs, models and artifacts.

By default `mlruns/mlflow.db` and `mlruns/artifacts` of the user's project. `tracking.uri` comes before the
environment's `MLFLOW_TRACKING_URI`, and that before the default.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.system.credentials import reason, refuse_unescaped, shown_address
from cyclegan.system.errors import UserError, causes, database_fault
from cyclegan.system.files import replacing
from cyclegan.system.locks import held
from cyclegan.tracking.database import connect_arguments
from cyclegan.tracking.tags import ARTIFACTS_TAG, LOCK_TAG

Found = TypeVar("Found")

SQL = ("postgresql", "mysql", "mssql")
FIRST_ANSWER_SECONDS = 5
OPENING_SECONDS = 120
# Every place in MLflow's tables that holds an absolute path of ours, and which of its rows.
PATH_COLUMNS = (
    ("experiments", "artifact_location", "TRUE"),
    ("experiment_tags", "value", f"key = '{ARTIFACTS_TAG}'"),
    ("runs", "artifact_uri", "TRUE"),
    ("logged_models", "artifact_location", "TRUE"),
    ("model_versions", "storage_location", "TRUE"),
)

logger = logging.getLogger(__name__)


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
    """May hold a data base's password: print `shown` instead."""

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
        store = _open_sqlite(_database(uri, origin, project), waiting(project))
    elif kind in ("http", "https"):
        store = _open_server(uri, origin, project)
    elif kind in SQL:
        store = _open_sql(uri, origin, project)
    else:
        raise UserError(
            f"{origin} = {shown_address(uri)}: not supported, and neither are folders as stores; use "
            "sqlite:///FILE, http(s)://SERVER or postgresql://…, or leave it empty ('mlflow migrate-filestore "
            "--source FOLDER --target sqlite:///FILE' converts a folder)"
        )
    _make_current(store.uri)
    return store


def waiting(project: Project) -> Path:
    """Where what is to be recorded waits while the store is away."""
    return project.mlruns.resolve() / "waiting"


@contextmanager
def impatient(seconds: int = FIRST_ANSWER_SECONDS) -> Iterator[None]:
    """Within this context a server that does not answer is given up after seconds, not minutes."""
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _wanted(project: Project, tracking: Tracking) -> tuple[str, str]:
    """The URI, and who asked for it."""
    if tracking.uri:
        return tracking.uri, "tracking.uri"
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given, "MLFLOW_TRACKING_URI"
    return _sqlite_uri(project.mlruns.resolve() / "mlflow.db"), "the default store"


def _sqlite_uri(database: Path) -> str:
    """The URI of a database.

    SQLAlchemy decodes it, but MLflow creates the folder that it names as it is written: where escapes are needed, the
    slashes are escaped, too, and leave no such folder.
    """
    path = str(database)
    return "sqlite:///" + (quote(path, safe="") if "%" in path or "?" in path else path)


def _database(uri: str, origin: str, project: Project) -> Path:
    try:
        name = sqlalchemy.make_url(uri).database
    except sqlalchemy.exc.ArgumentError:
        name = None
    if not name or name == ":memory:":
        raise UserError(f"{origin} = {shown_address(uri)}: names no file; use sqlite:///FILE")
    # A relative path means the project: below a sub-folder, or a temporary DVC copy, it would be another store.
    return (project.home / name).resolve()


def _open_sqlite(database: Path, journals: Path) -> Store:
    uri, artifacts = _sqlite_uri(database), (database.parent / "artifacts").as_uri()
    locks = database.parent / "running"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        # Processes that create MLflow's tables at the same time break each other.
        with _only_opener(database.with_name(database.name + ".lock")):
            if not database.exists() or database.stat().st_size == 0:
                _create_database(database, artifacts)
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                # Eight times faster, and stays with the file.
                connection.execute("PRAGMA journal_mode=WAL")
                store = Store(uri, _checked_client(uri, database), locks, journals, artifacts)
                _follow_move(connection, store, database)
    except OSError as error:
        raise UserError(f"{error.filename or database}: {error.strerror}; MLflow's store must be writable") from error
    except sqlite3.Error as error:
        if fault := database_fault(error):
            raise UserError(f"{database}: {fault}") from error
        raise UserError(f"{database} is no usable MLflow store ({error}): restore it or move it away") from error
    return store


@contextmanager
def _only_opener(lock: Path) -> Iterator[None]:
    with held(lock, wait=OPENING_SECONDS) as free:
        if not free:
            raise UserError(f"{lock} is held by another process for over {OPENING_SECONDS} seconds: end that process")
        yield


def _create_database(database: Path, artifacts: str) -> None:
    """Create MLflow's tables in memory and the file at once: a process killed meanwhile leaves nothing half-made."""
    for leftover in ("-wal", "-shm", "-journal"):
        # SQLite would take them for the new file's.
        database.with_name(database.name + leftover).unlink(missing_ok=True)
    with replacing(database) as temporary, closing(sqlite3.connect(temporary)) as file:
        tables = SqlAlchemyStore("sqlite:///:memory:", artifacts)  # type: ignore[no-untyped-call]
        with closing(tables.engine.raw_connection()) as memory:
            connection: Any = memory.driver_connection
            connection.backup(file)
        tables.engine.dispose()


def _checked_client(uri: str, database: Path) -> MlflowClient:
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        if "out-of-date" in str(error):
            raise UserError(
                f"{database} was written by another version of MLflow: make a copy of it, then run "
                f"'mlflow db upgrade {uri}'"
            ) from error
        raise UserError(f"{database} cannot be opened as MLflow's store: {reason(error)}") from error


def _follow_move(connection: sqlite3.Connection, store: Store, database: Path) -> None:
    """MLflow stores absolute paths. After a move, point those of our own experiments to where the files are now."""
    rows = connection.execute(
        "SELECT DISTINCT value FROM experiment_tags WHERE key = ? AND value != ?", (ARTIFACTS_TAG, store.artifacts)
    )
    for (old,) in rows.fetchall():
        if any(_in_use(path) for path in store.locks.glob("*.lock")):
            raise UserError(
                f"{database} is in use under its former path ({_path(old).parent}): wait for the training there to end"
            )
        with connection:
            for table, column, condition in PATH_COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                    f"WHERE ({column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/') AND {condition}",
                    {"old": old, "new": store.artifacts},
                )
            connection.execute(
                "UPDATE tags SET value = :new || substr(value, length(:old) + 1) "
                "WHERE key = :key AND substr(value, 1, length(:old) + 1) = :old || '/'",
                {"key": LOCK_TAG, "old": str(_path(old).parent), "new": str(database.parent)},
            )
        logger.warning(
            "the project moved: artifact links in %s now point to %s, no longer to %s",
            database, database.parent / "artifacts", _path(old),
        )  # fmt: skip


def _in_use(lock: Path) -> bool:
    with held(lock) as free:
        return not free


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def local_path(location: str) -> Path | None:
    """The folder that an artifact location names on this machine; None for one that lies elsewhere."""
    if location.startswith("/"):
        return Path(location)
    return _path(location) if urlsplit(location).scheme == "file" else None


def _open_server(uri: str, origin: str, project: Project) -> Store:
    parts = urlsplit(uri)
    if parts.username:
        # MLflow prints URIs in its errors; it also reads the credentials from here.
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        uri = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        with impatient():
            client.search_experiments(max_results=1)
    except MlflowException as error:
        remedy = access_remedy(error, uri) or (
            "start it, correct the address, leave it empty to use the project's own store, or set tracking.offline: "
            "true to train without it and deliver later"
        )
        raise UserError(
            f"{origin} = {uri}: the MLflow server does not answer as one should; {remedy} ({reason(error)})"
        ) from error
    return Store(uri=uri, client=client, locks=_locks(project), journals=waiting(project), artifacts=None)


def access_remedy(error: BaseException, uri: str) -> str | None:
    """What to do about a server that a proxy or a missing password keeps out of reach; None for other errors."""
    text, parts = " ".join(map(str, causes(error))), urlsplit(uri)
    if "ProxyError" in text:
        proxy = shown_address(getproxies().get(parts.scheme, ""))
        return f"{parts.scheme}_proxy = {proxy} fails; correct it, or set NO_PROXY={parts.hostname}"
    if re.search(r"\b401\b", text):
        return "it asks for a login (HTTP 401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return None


def _open_sql(uri: str, origin: str, project: Project) -> Store:
    locks = _locks(project)
    try:
        _refuse_silent(sqlalchemy.make_url(uri))
        with _only_opener(locks.parent / "mlflow.lock"):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, MlflowException) as error:
        raise UserError(
            f"{origin} = {shown_address(uri)}: the data base cannot be used; start it, correct the address, or "
            f"install its driver ({reason(error)})"
        ) from error
    return Store(
        uri=uri,
        client=client,
        locks=locks,
        journals=waiting(project),
        artifacts=(project.mlruns.resolve() / "artifacts").as_uri(),
    )


def _refuse_silent(url: sqlalchemy.URL) -> None:
    """Connect once: MLflow itself would try for minutes, and wait for ever for a data base that never answers.

    Raises:
        ImportError, sqlalchemy.exc.SQLAlchemyError: it cannot be reached.
    """
    engine = sqlalchemy.create_engine(url, connect_args=connect_arguments(url, FIRST_ANSWER_SECONDS))
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def all_found(search: Callable[..., PagedList[Found]], *arguments: Any, **options: Any) -> list[Found]:
    """All that a search of MLflow's finds, of which it gives a page at a time."""
    page = search(*arguments, **options)
    found = list(page)
    while page.token:
        page = search(*arguments, **options, page_token=page.token)
        found += page
    return found


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

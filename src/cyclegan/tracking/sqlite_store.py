"""An MLflow store in an SQLite file. The default is the project's `mlruns/mlflow.db`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from cyclegan.project import Project
from cyclegan.system.credentials import reason, shown_address
from cyclegan.system.errors import UserError, database_fault
from cyclegan.system.files import replacing
from cyclegan.system.locks import claimed
from cyclegan.tracking.moved_project import follow_move

OPENING_SECONDS = 120


def database_file(uri: str, origin: str, project: Project) -> Path:
    """The file that an `sqlite:` URI names. A relative path starts at the user's project.

    Args:
        origin: the key or variable that holds the URI.

    Raises:
        UserError: the URI names no file.
    """
    try:
        name = sqlalchemy.make_url(uri).database
    except sqlalchemy.exc.ArgumentError:
        name = None
    if not name or name == ":memory:":
        raise UserError(f"{origin} = {shown_address(uri)}: names no file; use sqlite:///FILE")
    # Relative to a subfolder or a temporary DVC copy, the same path would be another store.
    return (project.home / name).resolve()


def sqlite_uri(database: Path) -> str:
    """The URI of a database file.

    SQLAlchemy decodes the URI, but MLflow creates its folder undecoded. If escapes are needed, the slashes are escaped
    too, so that MLflow sees no folder.
    """
    path = str(database)
    return "sqlite:///" + (quote(path, safe="") if "%" in path or "?" in path else path)


def open_sqlite(database: Path, locks: Path) -> MlflowClient:
    """Open the database, and create it if it is missing. After a move of the project, its paths are adapted.

    Args:
        locks: the folder of the lock files of live runs; created if missing.

    Raises:
        UserError: the file cannot be read or written, or is not an MLflow store.
    """
    try:
        locks.mkdir(parents=True, exist_ok=True)
        # Two processes must not create MLflow's tables at the same time.
        with claimed(database.with_name(database.name + ".lock"), OPENING_SECONDS):
            if not database.exists() or database.stat().st_size == 0:
                _create_database(database)
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                # This mode is eight times faster. SQLite stores it in the file.
                connection.execute("PRAGMA journal_mode=WAL")
                client = _checked_client(sqlite_uri(database), database)
                follow_move(connection, client, database, locks)
    except OSError as error:
        raise UserError(f"{error.filename or database}: {error.strerror}; MLflow's store must be writable") from error
    except sqlite3.Error as error:
        if fault := database_fault(error):
            raise UserError(f"{database}: {fault}") from error
        raise UserError(f"{database}: not a usable MLflow store ({error}); restore it, or move it away") from error
    except MlflowException as error:
        raise UserError(
            f"{database}: cannot be opened as an MLflow store ({reason(error)}); restore it, or move it away"
        ) from error
    return client


def _create_database(database: Path) -> None:
    """Create MLflow's tables in memory, then the file in one step: a kill leaves no incomplete file."""
    for suffix in ("-wal", "-shm", "-journal"):
        # SQLite would apply an old file of this name to the new database.
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    with replacing(database) as temporary, closing(sqlite3.connect(temporary)) as file:
        artifacts = (database.parent / "artifacts").as_uri()
        tables = SqlAlchemyStore("sqlite:///:memory:", artifacts)  # type: ignore[no-untyped-call]
        with closing(tables.engine.raw_connection()) as memory:
            connection: Any = memory.driver_connection
            connection.backup(file)
        tables.engine.dispose()


def _checked_client(uri: str, database: Path) -> MlflowClient:
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        if "out-of-date" not in str(error):
            raise
        raise UserError(
            f"{database}: written by another version of MLflow; copy it, then run 'mlflow db upgrade {uri}'"
        ) from error

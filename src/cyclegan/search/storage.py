"""Storage of studies: a journal file for one machine, or a database for several machines."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from cyclegan.system.credentials import reason, refuse_unescaped, shown_address
from cyclegan.system.errors import UserError, database_fault
from cyclegan.system.locks import claimed
from cyclegan.tracking.database import connect_arguments

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
# A worker on a database counts as dead without a heartbeat for this time.
GRACE_SECONDS = 30
# A search waits this long for a database that restarts.
RECONNECT_SECONDS = 300.0
# Timeout of a connection to a database server.
CONNECT_SECONDS = 10
CLAIM_SECONDS = 120

# Raised while a database is unavailable.
DATABASE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """Open the database at a URL, or the journal file in a folder; create it if it is missing.

    If the database becomes unavailable later, its users wait for up to RECONNECT_SECONDS.

    Raises:
        UserError: the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if where is None:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    if "://" not in where:
        raise UserError(
            f"search.storage = {shown_address(where)}: must be null or a URL such as postgresql://HOST/NAME"
        )
    refuse_unescaped("search.storage", where)
    try:
        url = sqlalchemy.make_url(where)
        if url.get_backend_name() == "sqlite" and url.database:
            # Resolve the path: in another working directory or a temporary DVC copy it would be another file.
            url = url.set(database=str((folder.parent / url.database).resolve()))
        where = url.render_as_string(hide_password=False)
        # Take a lock, because processes that create the tables at the same time fail.
        with claiming(folder / "opening"):
            storage = RDBStorage(
                where,
                # Test a connection before use, because it may have been closed during a long trial.
                engine_kwargs={"pool_pre_ping": True, "connect_args": connect_arguments(url, CONNECT_SECONDS)},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        if fault := database_fault(error):
            raise UserError(f"search.storage = {shown_address(where)}: {fault}") from error
        raise UserError(
            f"search.storage = {shown_address(where)}: the database cannot be used; start it, correct the "
            f"address, or install its driver, for PostgreSQL with pip install psycopg[binary] ({_reason(error)})"
        ) from error
    sqlalchemy.event.listen(storage.engine, "do_connect", _connect_patiently)
    return storage


@contextmanager
def require_storage(where: str | None) -> Iterator[None]:
    """Turn errors of the study's database within this context into a UserError with a remedy.

    Args:
        where: as for `open_storage`.

    Raises:
        UserError: the database became unavailable, or refuses its service.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        if where is None:
            # The error comes from another database.
            raise
        if fault := database_fault(error):
            raise UserError(
                f"search.storage = {shown_address(where)}: {fault}; fix this and run the same command again to continue"
            ) from error
        raise UserError(
            f"search.storage = {shown_address(where)}: the database became unavailable ({_reason(error)}); start it "
            "and run the same command again to continue"
        ) from error


@contextmanager
def claiming(lock: Path) -> Iterator[None]:
    """Hold a lock that other workers of this machine hold only for a moment.

    Raises:
        UserError: another process still holds it after CLAIM_SECONDS.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with claimed(lock, CLAIM_SECONDS):
        yield


def _connect_patiently(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    """Replace SQLAlchemy's connect: retry for up to RECONNECT_SECONDS."""
    deadline, warned = time.monotonic() + RECONNECT_SECONDS, False
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() >= deadline:
                raise
            if not warned:
                logger.warning(
                    "search.storage: the database is unavailable; waiting up to %.0f seconds", RECONNECT_SECONDS
                )
                warned = True
            time.sleep(1)


def _reason(error: Exception) -> str:
    """The message of the database driver, without SQLAlchemy's additions."""
    cause = error.__cause__ or error
    original = cause.orig if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.orig is not None else cause
    return reason(original)

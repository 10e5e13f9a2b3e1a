"""Where a search keeps its studies: a journal file of this machine, or a database that other machines reach too."""

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
GRACE_SECONDS = 30
"""A worker on a database that was silent for so long is dead."""
SECONDS_AWAY = 300.0
"""How long a database may be away, as while it is started again, before a search gives up."""
CONNECT_SECONDS = 10
"""How long a server may take to answer to a connection."""
CLAIM_SECONDS = 120

AWAY = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""What is raised when a database cannot be reached."""


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """Open the database at a URL, or the journal file in a folder, creating it where it is missing.

    Once opened, a database may go away for SECONDS_AWAY: whatever needs it waits.

    Raises:
        UserError: it cannot be used.
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
            # Below another folder, or in a temporary DVC copy, a relative path would be another file.
            url = url.set(database=str((folder.parent / url.database).resolve()))
        where = url.render_as_string(hide_password=False)
        # Processes that create the tables at the same time break each other.
        with claiming(folder / "opening"):
            storage = RDBStorage(
                where,
                # A connection that was idle through a long trial may have been cut: it is tried before it is used.
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
def needing_storage(where: str | None) -> Iterator[None]:
    """Turn the errors of a database that goes away for good, or refuses its service, into one that says what to do.

    Args:
        where: as for `open_storage`.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except AWAY as error:
        if where is None:
            # It speaks of another database.
            raise
        if fault := database_fault(error):
            raise UserError(
                f"search.storage = {shown_address(where)}: {fault}. Mend that and run the same command again to go on"
            ) from error
        raise UserError(
            f"search.storage = {shown_address(where)}: the database went away ({_reason(error)}); start it "
            "and run the same command again to go on"
        ) from error


@contextmanager
def claiming(lock: Path) -> Iterator[None]:
    """Hold a lock that other workers of this machine hold for moments only.

    Raises:
        UserError: one of them keeps it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with claimed(lock, CLAIM_SECONDS):
        yield


def _connect_patiently(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    """In place of SQLAlchemy's own way to connect: try again until SECONDS_AWAY have passed."""
    until, told = time.monotonic() + SECONDS_AWAY, False
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() >= until:
                raise
            if not told:
                logger.warning("the search's database is away; waiting up to %.0f seconds", SECONDS_AWAY)
                told = True
            time.sleep(1)


def _reason(error: Exception) -> str:
    """The driver's own words, without SQLAlchemy's."""
    cause = error.__cause__ or error
    told = cause.orig if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.orig is not None else cause
    return reason(told)

"""An MLflow store in a database server, such as PostgreSQL, without a tracking server."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason, shown_address
from cyclegan.system.errors import UserError
from cyclegan.system.locks import claimed
from cyclegan.tracking.database import connect_arguments

SCHEMES = ("postgresql", "mysql", "mssql")
FIRST_ANSWER_SECONDS = 5
OPENING_SECONDS = 120


def open_sql(uri: str, origin: str, lock: Path) -> MlflowClient:
    """Connect to a database, and create MLflow's tables if they are missing.

    Args:
        origin: the key or variable that holds the URI.
        lock: file that is locked meanwhile.

    Raises:
        UserError: the database cannot be used.
    """
    try:
        _refuse_silent(sqlalchemy.make_url(uri))
        with claimed(lock, OPENING_SECONDS):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, MlflowException) as error:
        raise UserError(
            f"{origin} = {shown_address(uri)}: the database cannot be used; start it, correct the address, or "
            f"install its driver ({reason(error)})"
        ) from error
    return client


def _refuse_silent(url: sqlalchemy.URL) -> None:
    """Connect once with a timeout. MLflow would retry for minutes, and wait forever for a silent database.

    Raises:
        ImportError, sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
    """
    engine = sqlalchemy.create_engine(url, connect_args=connect_arguments(url, FIRST_ANSWER_SECONDS))
    try:
        engine.connect().close()
    finally:
        engine.dispose()

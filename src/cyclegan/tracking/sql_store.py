"""MLflow's store in a team's database, such as PostgreSQL, without a tracking server."""

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
    """Connect to a database, creating MLflow's tables where they are missing.

    Args:
        origin: who asked for the URI.
        lock: held meanwhile.

    Raises:
        UserError: it cannot be used.
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
    """Connect once: MLflow itself would try for minutes, and wait for ever for a database that never answers.

    Raises:
        ImportError, sqlalchemy.exc.SQLAlchemyError: it cannot be reached.
    """
    engine = sqlalchemy.create_engine(url, connect_args=connect_arguments(url, FIRST_ANSWER_SECONDS))
    try:
        engine.connect().close()
    finally:
        engine.dispose()

"""Adaptation of an MLflow store whose project folder was renamed or copied.

MLflow stores the artifact locations of experiments, runs, logged models and model versions as absolute paths. Its
client cannot change them. This is therefore the only module that writes MLflow's tables with SQL. One transaction
changes all paths and tags, so that a kill leaves no mixture.

Tested with the tables of MLflow 3.17.2.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import ViewType

from cyclegan.system.errors import UserError
from cyclegan.system.locks import is_held
from cyclegan.tracking.tags import ARTIFACTS_TAG, LOCK_TAG

# The columns of MLflow's tables that hold absolute paths, as (table, column, condition).
PATH_COLUMNS = (
    ("experiments", "artifact_location", "TRUE"),
    ("experiment_tags", "value", f"key = '{ARTIFACTS_TAG}'"),
    ("runs", "artifact_uri", "TRUE"),
    ("logged_models", "artifact_location", "TRUE"),
    ("model_versions", "storage_location", "TRUE"),
)

logger = logging.getLogger(__name__)


def follow_move(connection: sqlite3.Connection, client: MlflowClient, database: Path, locks: Path) -> None:
    """Point the paths of this package's experiments to the current folder.

    Args:
        connection: to the database.
        locks: the folder of the lock files of live runs.

    Raises:
        UserError: a training still runs under the former path.
    """
    artifacts = (database.parent / "artifacts").as_uri()
    for former in _former_artifacts(client, artifacts):
        if any(is_held(path) for path in locks.glob("*.lock")):
            raise UserError(
                f"{database}: a training still uses it under its former path {path_of(former).parent}; wait for that "
                "training to end"
            )
        _move(connection, former, artifacts)
        logger.warning(
            "the project moved: artifact links in %s now point to %s instead of %s",
            database, database.parent / "artifacts", path_of(former),
        )  # fmt: skip


def path_of(uri: str) -> Path:
    """The path that a `file:` URI names."""
    return Path(unquote(urlsplit(uri).path))


def _former_artifacts(client: MlflowClient, artifacts: str) -> set[str]:
    """The artifact folders of this package's experiments other than the current one."""
    # A URI contains no apostrophe, which would end the value: it is escaped.
    others = f"tags.`{ARTIFACTS_TAG}` != '{artifacts}'"
    return {found.tags[ARTIFACTS_TAG] for found in client.search_experiments(ViewType.ALL, filter_string=others)}


def _move(connection: sqlite3.Connection, former: str, artifacts: str) -> None:
    with connection:
        for table, column, condition in PATH_COLUMNS:
            connection.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                f"WHERE ({column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/') AND {condition}",
                {"old": former, "new": artifacts},
            )
        connection.execute(
            "UPDATE tags SET value = :new || substr(value, length(:old) + 1) "
            "WHERE key = :key AND substr(value, 1, length(:old) + 1) = :old || '/'",
            {"key": LOCK_TAG, "old": str(path_of(former).parent), "new": str(path_of(artifacts).parent)},
        )

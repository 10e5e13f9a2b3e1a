"""A project whose folder was renamed or copied: its MLflow store follows.

MLflow stores absolute paths, and its client can change none of them: neither the artifact location of an experiment,
nor that of a run, a logged model or a model version. This is therefore the only module that writes MLflow's tables with
SQL. The tags that hold a path change in the same transaction: a process that is killed leaves all or nothing moved.

Checked with the tables of MLflow 3.17.2.
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

# Every place in MLflow's tables that holds an absolute path of ours, and which of its rows.
PATH_COLUMNS = (
    ("experiments", "artifact_location", "TRUE"),
    ("experiment_tags", "value", f"key = '{ARTIFACTS_TAG}'"),
    ("runs", "artifact_uri", "TRUE"),
    ("logged_models", "artifact_location", "TRUE"),
    ("model_versions", "storage_location", "TRUE"),
)

logger = logging.getLogger(__name__)


def follow_move(connection: sqlite3.Connection, client: MlflowClient, database: Path, locks: Path) -> None:
    """Point the paths of this package's own experiments to where the files are now.

    Args:
        connection: to the database.
        locks: the folder of the locks of live runs.

    Raises:
        UserError: a training still runs under the former path.
    """
    artifacts = (database.parent / "artifacts").as_uri()
    for former in _former_artifacts(client, artifacts):
        if any(is_held(path) for path in locks.glob("*.lock")):
            raise UserError(
                f"{database} is in use under its former path ({path_of(former).parent}): wait for the training there "
                "to end"
            )
        _move(connection, former, artifacts)
        logger.warning(
            "the project moved: artifact links in %s now point to %s, no longer to %s",
            database, database.parent / "artifacts", path_of(former),
        )  # fmt: skip


def path_of(uri: str) -> Path:
    """The path that a `file:` URI names."""
    return Path(unquote(urlsplit(uri).path))


def _former_artifacts(client: MlflowClient, artifacts: str) -> set[str]:
    """The artifact folders that experiments of this package name, other than the present one."""
    # An apostrophe, which would end the value, is escaped in a URI.
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

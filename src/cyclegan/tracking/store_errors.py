"""Errors of an MLflow store: whether they are temporary, and their remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason
from cyclegan.system.errors import FIXABLE, UserError, causes, system_fault
from cyclegan.tracking.server_store import access_remedy, one_retry
from cyclegan.tracking.store import Store, local_path

# MLflow's codes of errors that no retry can fix.
PERMANENT_CODES = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
}


def is_permanent(error: Exception) -> bool:
    """Whether no retry can succeed, because the request or this program is wrong."""
    if isinstance(error, MlflowException):
        return error.error_code in PERMANENT_CODES
    return not isinstance(error, OSError)


@contextmanager
def require_store(store: Store) -> Iterator[None]:
    """Turn errors of an unavailable store into one line with a remedy. A request is retried once.

    Raises:
        UserError: the store is unavailable, or refuses files.
    """
    try:
        with one_retry():
            yield
    except Exception as error:
        if permanent_refusal(error, store):
            raise UserError(describe_refusal(error, store)) from error
        # A server's refusal of a file is an OSError of requests, without a number. Errors of the operating system
        # concern this machine, and are raised unchanged.
        if is_permanent(error) or (isinstance(error, OSError) and system_fault(error)):
            raise
        remedy = access_remedy(error, store.uri) or (
            "restart it, or set tracking.offline: true to work without it and deliver later"
        )
        raise UserError(
            f"MLflow at {store.display_uri}: unavailable or not writable; {remedy} ({reason(error)})"
        ) from error


def describe_refusal(error: BaseException, store: Store) -> str:
    """A message that the store refuses files, with the cause."""
    cause = permanent_refusal(error, store) or reason(error)
    return f"MLflow at {store.display_uri} takes metrics but no files: {cause}"


def permanent_refusal(error: BaseException, store: Store) -> str | None:
    """Why the server permanently refuses files, with the remedy; None for a temporary error."""
    if store.artifacts is not None:
        # Files go into a local folder. The operating system reports its faults.
        return None
    for cause in causes(error):
        # MLflow reports some HTTP answers only as text.
        if "413 Client Error" in str(cause):
            return "HTTP 413, too large for a proxy; raise the proxy's body limit (nginx: client_max_body_size)"
        if isinstance(cause, ImportError):
            return f"the server's artifact root needs a package that is missing here ({reason(cause)}); install it"
        if isinstance(cause, OSError) and cause.errno in FIXABLE and _is_artifact_path(cause.filename, store):
            return (
                f"its artifact root is a folder that cannot be written from here ({cause.strerror}: {cause.filename}); "
                "start the server with --artifacts-destination, or mount the folder"
            )
    return None


def _is_artifact_path(path: object, store: Store) -> bool:
    """Whether a path belongs to an artifact folder that the server expects clients to write to."""
    if not isinstance(path, str):
        return False
    try:
        experiments = store.client.search_experiments()
    except Exception:
        return False
    roots = [local_path(experiment.artifact_location) for experiment in experiments]
    # The folder that could not be created may lie above the root.
    return any(root and (root.is_relative_to(path) or Path(path).is_relative_to(root)) for root in roots)

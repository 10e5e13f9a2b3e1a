"""What an error of MLflow's store means: whether it can pass, and what the user can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException

from cyclegan.system.credentials import reason
from cyclegan.system.errors import FIXABLE, UserError, causes, system_fault
from cyclegan.tracking.server_store import access_remedy
from cyclegan.tracking.store import Store, local_path

# MLflow's codes of errors that no later attempt can fix.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


def is_hopeless(error: Exception) -> bool:
    """Whether trying again later is in vain, because the request itself, or this program, is wrong."""
    if isinstance(error, MlflowException):
        return error.error_code in HOPELESS
    return not isinstance(error, OSError)


@contextmanager
def require_store(store: Store) -> Iterator[None]:
    """Turn the errors of a store that is unavailable into one line that says what can be done.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except Exception as error:
        if lasting_refusal(error, store):
            raise UserError(refused_files(error, store)) from error
        # A server's refusal of a file is an OSError of requests', without a number; the system's own errors name
        # what is wrong on this machine.
        if is_hopeless(error) or (isinstance(error, OSError) and system_fault(error)):
            raise
        remedy = access_remedy(error, store.uri) or (
            "bring it back, or set tracking.offline: true to do without it and deliver later"
        )
        raise UserError(
            f"MLflow at {store.shown} went away or refuses to be written: {remedy} ({reason(error)})"
        ) from error


def refused_files(error: BaseException, store: Store) -> str:
    """That the store takes no files, and why, for people."""
    return f"MLflow at {store.shown} takes metrics but no files: {lasting_refusal(error, store) or reason(error)}"


def lasting_refusal(error: BaseException, store: Store) -> str | None:
    """Why the server behind `store` takes no files, and the remedy, if that cannot pass by itself; else None."""
    if store.artifacts is not None:
        # Files go into a folder of this machine, whose faults the system names.
        return None
    for cause in causes(error):
        # MLflow passes some answers on as text alone.
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
    """Whether a path belongs to a folder in which the server wants clients to write files."""
    if not isinstance(path, str):
        return False
    try:
        experiments = store.client.search_experiments()
    except Exception:
        return False
    roots = [local_path(experiment.artifact_location) for experiment in experiments]
    # What could not be created may be a folder above the root.
    return any(root and (root.is_relative_to(path) or Path(path).is_relative_to(root)) for root in roots)

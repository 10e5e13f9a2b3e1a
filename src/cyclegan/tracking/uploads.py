"""Why an MLflow server takes no files, while it takes metrics."""

from __future__ import annotations

from pathlib import Path

from cyclegan.system.credentials import reason
from cyclegan.system.errors import MENDABLE, causes
from cyclegan.tracking.store import Store, local_path


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
        if isinstance(cause, OSError) and cause.errno in MENDABLE and _is_artifact_path(cause.filename, store):
            return (
                f"its artifact root is a folder that cannot be written from here ({cause.strerror}: {cause.filename}); "
                "start the server with --artifacts-destination, or mount the folder"
            )
    return None


def refused_files(error: BaseException, store: Store) -> str:
    """That files are refused and why, for people."""
    return f"MLflow at {store.shown} takes metrics but no files: {lasting_refusal(error, store) or reason(error)}"


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

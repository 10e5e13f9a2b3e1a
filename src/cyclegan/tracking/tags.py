"""The MLflow tags by which this package finds its own runs and experiments."""

from __future__ import annotations

# On a run: the lock file that its process holds.
LOCK_TAG = "cyclegan.lock"
# On a run: the id that it replaces, of a run that the store lost or never had (offline).
REPLACES_TAG = "cyclegan.replaces"
# On an experiment: its artifact folder, which differs after the project's folder has moved.
ARTIFACTS_TAG = "cyclegan.artifacts"
# On a run: its latest process.
PROCESS_TAGS = ("process.pid", "process.host", "mlflow.user")
# Tags of the first process, and the tag that holds a different value of a resumed run.
RESUMED_TAGS = {"git.commit": "cyclegan.resumed_at_commit", "device": "cyclegan.resumed_on_device"}

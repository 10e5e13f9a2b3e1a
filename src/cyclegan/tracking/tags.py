"""The tags by which this package finds its own runs and experiments in MLflow."""

from __future__ import annotations

# On a run: the file that its process holds locked while it lives.
LOCK_TAG = "cyclegan.lock"
# On a run that was opened in place of an id that the store does not know: it lost that run, or never had it, offline.
REPLACES_TAG = "cyclegan.replaces"
# On an experiment: where this package put its artifacts, hence whether the project's folder has moved since.
ARTIFACTS_TAG = "cyclegan.artifacts"
# On a run: its latest process.
PROCESS_TAGS = ("process.pid", "process.host", "mlflow.user")
# Where a resumption differs in these from the first process, it is noted beside them.
RESUMED_TAGS = {"git.commit": "cyclegan.resumed_at_commit", "device": "cyclegan.resumed_on_device"}

"""MLflow: the store, the recording of a training as a run, and the provenance of each number.

MLflow reads its settings from the environment, some of them while it is imported. Importing this package sets ours
first. A variable that the user has set stays.
"""

from __future__ import annotations

import logging
import os

SETTINGS = {
    # Send no usage data.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Never run pickled code when a model is loaded.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Do not run `uv export` and copy uv.lock into every model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Do not warn where git is not installed.
    "GIT_PYTHON_REFRESH": "quiet",
}

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

# This logger prints the traceback of an exception that MLflow raises anyway. Our error message is one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

"""MLflow: where its store lies, how a training is recorded in it, and where each number came from.

MLflow reads its settings from the environment, some of them while it is imported; importing this package sets ours
first. What the user has set wins.
"""

from __future__ import annotations

import logging
import os

SETTINGS = {
    # Nothing is sent to anybody.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Loading a model never runs pickled code.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # MLflow would otherwise run `uv export` and copy uv.lock into every model of a project that has one.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # No complaint where git is not installed.
    "GIT_PYTHON_REFRESH": "quiet",
}

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

# It prints the traceback of what it raises all the same, in front of our one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

"""A view of MLflow's table of runs with useful columns, and its address."""

from __future__ import annotations

import json
from collections.abc import Iterable

from cyclegan.domains import DIRECTIONS
from cyclegan.tracking.series import MAIN_METRICS
from cyclegan.tracking.store import Store

# MLflow's pages read a shared view from the experiment's tag of this name.
VIEW = "cyclegan"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
PARAMS = ("model.generator", "train.epochs", "train.learning_rate", "data.load_size")


def save_runs_view(store: Store, experiment_id: str) -> None:
    """Save the view with the experiment. Test metrics come first, then parameters.

    The columns are those that the latest runs have.
    """
    runs = store.client.search_runs([experiment_id], max_results=20)
    metrics = {name for run in runs for name in run.data.metrics}
    tests = [f"test_{direction}/{name}" for direction in DIRECTIONS for name in MAIN_METRICS]
    columns = [
        *_columns("metrics", (name for name in tests if name in metrics)),
        *_columns("params", PARAMS),
        *_columns("tags", ["dvc.exp"]),
    ]
    view = {"selectedColumns": columns, "columnOrder": [], "columnWidths": {}, "runsHiddenMode": "FIRST_20_RUNS"}
    store.client.set_experiment_tag(experiment_id, VIEW_TAG, json.dumps(view))


def runs_address(server: str, experiment_id: str) -> str:
    """The address of the view on an MLflow server. It opens MLflow's pages for model training."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def _columns(kind: str, names: Iterable[str]) -> list[str]:
    """MLflow's keys of columns."""
    return [f"{kind}.`{name}`" for name in names]

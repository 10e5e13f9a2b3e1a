"""The table of command `runs`."""

from __future__ import annotations

import difflib
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError, one_line
from cyclegan.tracking.series import plain_name
from cyclegan.tracking.store import Store, search_all

# First columns of every table. Those of parameters, metrics and tags follow.
FIRST_COLUMNS = ("run", "id", "status", "start", "seconds", "commit")


def find_experiment(store: Store, experiment: str) -> str:
    """The id of an experiment.

    Raises:
        UserError: there is no such experiment.
    """
    entity = store.client.get_experiment_by_name(experiment)
    if entity is None:
        known = sorted(other.name for other in store.client.search_experiments() if other.name != "Default")
        existing = ", ".join(known) or "none, run a training first"
        raise UserError(f"--experiment {experiment}: {store.display_uri} has no such experiment; there are: {existing}")
    return str(entity.experiment_id)


def find_runs(store: Store, experiment: str, condition: str = "") -> list[Run]:
    """All runs of an experiment that match a filter of MLflow, newest first.

    Raises:
        UserError: there is no such experiment, or the filter is invalid.
    """
    experiment_id = find_experiment(store, experiment)
    try:
        return search_all(store.client.search_runs, [experiment_id], condition, max_results=1000)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise UserError(f"--filter {condition}: {one_line(error)}") from None


def make_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A table with a row per run, and a column per parameter, metric and tag (`tags.…`) of any run."""
    rows = [_row(run) for run in runs]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)])))
    for name in table.columns[len(FIRST_COLUMNS) :]:
        # MLflow stores parameters as text.
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.notna().sum() == table[name].notna().sum():
            table[name] = numbers
    return table


def choose_columns(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns to print: the given ones, or the parameters that differ between the runs and the test metrics.

    Raises:
        UserError: there is no such column.
    """
    if columns:
        return ["run", *_require_columns(table, [name for name in columns if name != "run"])]
    others = [name for name in map(str, table.columns) if name not in FIRST_COLUMNS and not name.startswith("tags.")]
    params = [name for name in others if "/" not in name and table[name].astype(str).nunique() > 1]
    metrics = [name for name in others if name.startswith("test_")] or [
        name for name in others if name.startswith("val_")
    ]
    return [*FIRST_COLUMNS, *params, *sorted(metrics)]


def sorted_by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows sorted by one column: metrics best first, others smallest first.

    Raises:
        UserError: there is no such column.
    """
    _require_columns(table, [column])
    best_first = higher_is_better(column) if "/" in column else None
    return table.sort_values(column, ascending=not best_first, kind="stable", na_position="last")


def format_table(table: pd.DataFrame) -> str:
    """The table as text. Columns beyond the width of the terminal follow below, with the names of the runs again."""
    if table.empty:
        return "no runs"
    text = pd.DataFrame({name: table[name].map(_formatter(str(name))) for name in table}).set_index("run")
    width = shutil.get_terminal_size((200, 24)).columns if sys.stdout.isatty() else None
    return text.rename_axis(None).to_string(line_width=width)


def _row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    dirty = "+" if tags.get("git.dirty") == "true" else ""
    end = run.info.end_time or time.time() * 1000
    return {
        "run": run.info.run_name,
        "id": run.info.run_id,
        "status": run.info.status,
        "start": pd.Timestamp(run.info.start_time, unit="ms").floor("s"),
        "seconds": round((end - run.info.start_time) / 1000, 1),
        "commit": tags["git.commit"] + dirty if "git.commit" in tags else None,
        **run.data.params,
        **{plain_name(name): value for name, value in run.data.metrics.items()},
        **{f"tags.{key}": value for key, value in tags.items() if not key.startswith("mlflow.")},
    }


def _require_columns(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, map(str, table.columns), n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "'--csv -' shows all columns"
            raise UserError(f"no run has a column {name!r}; {hint}")
    return list(names)


def _formatter(name: str) -> Any:
    """The function that formats the values of a column."""
    if name == "seconds":
        return lambda seconds: f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    if name == "id":
        return lambda value: value[:8]
    if name == "commit":
        return lambda value: "–" if pd.isna(value) else value[:8] + value[40:]
    return lambda value: "–" if pd.isna(value) else f"{value:.5g}" if isinstance(value, float) else str(value)

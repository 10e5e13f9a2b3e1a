"""The outputs of stage `search` without a search. Imports nothing slow."""

from __future__ import annotations

from pathlib import Path

from cyclegan.system.files import write_json, write_text

# The columns of `trials.csv` that do not depend on the space and the objectives.
COLUMNS = ("phase", "slot", "state", "attempts", "reason", "seed", "seconds", "run_id")


def write_empty_results(folder: Path) -> None:
    """Write an empty `best.yaml`, which leaves params.yaml as it is, and a table without rows."""
    write_text(folder / "best.yaml", "{}\n")
    write_text(folder / "trials.csv", ",".join(COLUMNS) + "\n")
    write_json(folder / "study.json", {"trials": 0})

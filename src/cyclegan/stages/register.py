"""Stage `register`: make both generators versions in the MLflow model registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cyclegan.domains import DIRECTIONS
from cyclegan.errors import UserError
from cyclegan.files import write_json
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.register import Candidate, register
from cyclegan.stages.evaluate import generator_files, training_run
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import open_store


def run(project: Project) -> None:
    """Register `<dataset>-AtoB` and `<dataset>-BtoA` under the alias `challenger`; write `reports/register.json`."""
    params = load(project.params)
    training = training_run(project)
    metrics_file = project.reports / "evaluate" / "metrics.json"
    if not metrics_file.is_file():
        raise UserError(f"{metrics_file} does not exist: evaluate first ('dvc repro evaluate')")
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    store = open_store(project, params.tracking)
    dataset = params.data.dataset
    tracked = TrackedRun.attach(
        store, training["run_id"], experiment=training["experiment"], name=f"{dataset}-{training['run_key'][:8]}"
    )
    channels = {"A": params.data.channels_A, "B": params.data.channels_B}
    files = generator_files(project)
    versions = register(
        store,
        tracked.id,
        dataset,
        [
            Candidate(
                direction,
                files[direction],
                channels[source],
                channels[target],
                metrics=numbers(metrics[direction]),
                identity=numbers(metrics[direction].get("identity", {})),
            )
            for direction, (source, target) in DIRECTIONS.items()
        ],
        bit_depth=params.data.bit_depth,
        tags={**tags(project), "run_id": tracked.id, "run_key": training["run_key"], "data.md5": training["data_md5"]},
    )
    report = {
        version.direction: {"name": version.name, "version": version.version, "uri": version.uri, "alias": "challenger"}
        for version in versions
    }
    write_json(project.reports / "register.json", {"run_id": tracked.id, **report})
    for version in versions:
        print(f"{version.uri}  alias challenger{'  (was registered already)' if version.reused else ''}")


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """The measured figures of one direction, without the counts and the nested baseline."""
    return {name: float(value) for name, value in figures.items() if isinstance(value, float)}

"""Stage `register`: make both generators versions in the MLflow model registry."""

from __future__ import annotations

import json

from cyclegan.domains import DIRECTIONS
from cyclegan.errors import UserError
from cyclegan.files import write_json
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.register import Candidate, register
from cyclegan.stages.outputs import attach, generator_files, measured, training_run
from cyclegan.tracking.provenance import tags
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
    tracked = attach(store, training)
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
                metrics=measured(metrics[direction]),
                identity=measured(metrics[direction].get("identity", {})),
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

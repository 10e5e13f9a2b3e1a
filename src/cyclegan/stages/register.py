"""Stage `register`: make both generators versions in the MLflow model registry."""

from __future__ import annotations

from cyclegan.domains import DIRECTIONS
from cyclegan.errors import UserError
from cyclegan.files import write_json
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.register import Candidate, register
from cyclegan.stages.outputs import attach, generator_files, measured, test_figures, training_run
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.store import open_store


def run(project: Project) -> None:
    """Register `<dataset>-AtoB` and `<dataset>-BtoA` under the alias `challenger`; write `reports/register.json`."""
    params = load(project.params)
    training = training_run(project)
    metrics = test_figures(project)
    files = generator_files(project)
    for file in files.values():
        if not file.is_file():
            raise UserError(f"{file} does not exist: train first ('dvc repro train')")
    store = open_store(project, params.tracking)
    dataset = params.data.dataset
    tracked = attach(store, training)
    channels = {"A": params.data.channels_A, "B": params.data.channels_B}
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

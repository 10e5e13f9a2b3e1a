"""Stage `register`: register both generators in the MLflow model registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd

from cyclegan.domains import DIRECTIONS, DOMAINS
from cyclegan.experiment.run_page import log_result, result_page
from cyclegan.experiment.stage_outputs import (
    generator_files,
    only_metrics,
    open_store_and_deliver,
    require_file,
    test_metrics,
)
from cyclegan.experiment.trained_run import TrainedRun
from cyclegan.params import Params, load
from cyclegan.project import Project
from cyclegan.registry.gate import choose_metric
from cyclegan.registry.measurements import Measured, read_per_image
from cyclegan.registry.model_page import version_link
from cyclegan.registry.onnx_flavor import prepare_export
from cyclegan.registry.versions import Candidate, RegisteredVersion, register
from cyclegan.report.register_report import write_register_report
from cyclegan.system.errors import UserError, one_line
from cyclegan.system.files import write_json
from cyclegan.tracking.provenance import tags
from cyclegan.tracking.store import LOCAL_UI
from cyclegan.tracking.store_errors import require_store

# Licenses of the images that this project knows. Each public archive has terms of its own.
LICENSES = {"fluent-emoji": "MIT, see data/fluent-emoji/NOTICE"}

logger = logging.getLogger(__name__)


def run(project: Project) -> None:
    """Register `<dataset>-AtoB` and `<dataset>-BtoA`, promote those that are better; write `reports/register.*`."""
    params = load(project.params)
    if params.tracking.offline:
        raise UserError(
            "tracking.offline: true, but the model registry is part of MLflow; "
            "set it to false when MLflow is available, then run 'dvc repro'"
        )
    if params.registry.export:
        prepare_export()
    trained = TrainedRun.load(project)
    # Check the candidates before the store is opened, so that an impossible gate is reported first.
    metrics = test_metrics(project)
    candidates = _candidates(project, params, metrics, _facts(params, trained, metrics))
    store = open_store_and_deliver(project, params.tracking)
    with require_store(store):
        tracked = trained.attach(store)
        versions = register(
            store,
            tracked.id,
            params.data.dataset,
            candidates,
            bit_depth=params.data.bit_depth,
            tags={
                **tags(project),
                "run_id": tracked.id,
                "run_key": trained.run_key,
                "data.md5": trained.data_md5,
            },
        )
        verdicts = {version.uri: _verdict(version) for version in versions}
        log_result(tracked, project, result_page(params, trained, metrics, verdicts))
        url = store.run_url(tracked.id)
    _write_report(project, params, tracked.id, url, versions)
    if store.artifacts is not None and unquote(str(project.mlruns)) != str(project.mlruns):
        logger.warning(
            "%s: MLflow decodes the %% in this path; rename the folder, or pass dst_path=FOLDER to "
            "mlflow.pyfunc.load_model",
            project.mlruns,
        )
    for version in versions:
        again = " (was already registered)" if version.reused else ""
        print(f"{version.uri}{again} {_outcome(version)}")
    _print_results(project, params, url, versions)


def _print_results(project: Project, params: Params, url: str, versions: Sequence[RegisteredVersion]) -> None:
    """Print what the pipeline has made, and where to look at it."""
    names = params.data.domain_names
    print("\nThe pipeline has made:")
    for (direction, file), version in zip(generator_files(project).items(), versions, strict=True):
        print(f"  {names.arrow(direction)}: {file.relative_to(project.root)}, registered as {version.uri}")
    print("Look at:")
    print("  reports/evaluate/report.html   metrics, images and curves")
    print("  reports/register.html          the verdict of the gate")
    print(f"  {url}" + ("   after 'make ui'" if url.startswith(LOCAL_UI) else ""))
    print(f"Try it: cyclegan serve {versions[0].uri}", flush=True)


def _outcome(version: RegisteredVersion) -> str:
    verdict = "is champion" if version.champion == version.version else "stays challenger"
    return f"{verdict}: {version.decision.reason}"


def _verdict(version: RegisteredVersion) -> str:
    """A paragraph of the run's description, in Markdown."""
    link = version_link(version.name, version.version)
    return f"[{version.name} version {version.version}]({link}) {_outcome(version)}."


def _facts(params: Params, trained: TrainedRun, metrics: Mapping[str, Any]) -> dict[str, str]:
    """The table of the training data in the model card."""
    data, size = params.data, params.training_size

    def images(counts: Mapping[str, int]) -> str:
        return ", ".join(
            f"{counts[domain]} of {data.domain_names.of(domain)}" for domain in DOMAINS if domain in counts
        )

    minutes = f"{trained.seconds / 60:.1f} minutes on {trained.device}"
    facts = {
        "data set": data.dataset,
        "source": data.recorded_source,
        "license": LICENSES.get(data.source, "not recorded; check the terms of the source before you publish"),
        "training images": images(trained.images),
        "test images": images(metrics["protocol"].get("counts", {})),
        "training size": "" if size is None else f"{size[0]} × {size[1]} pixels",
        "training": f"{trained.epochs} epochs, {trained.steps} steps, {minutes}",
    }
    return {name: value for name, value in facts.items() if value}


def _candidates(
    project: Project, params: Params, metrics: Mapping[str, Any], facts: Mapping[str, str]
) -> list[Candidate]:
    """Both generators with their evaluation and the metric of their gate.

    Raises:
        UserError: a file of an earlier stage is missing or corrupt, or the evaluation lacks the metric of a gate.
    """
    evaluated = project.reports / "evaluate"
    files = generator_files(project)
    for file in files.values():
        require_file(file, "train")
    per_image = _read_table(evaluated / "per_image.csv")
    names = params.data.domain_names
    channels = {"A": params.data.channels_A, "B": params.data.channels_B}
    candidates = []
    for direction, (source, target) in DIRECTIONS.items():
        evaluation = Measured(
            metrics=only_metrics(metrics[direction]),
            identity=only_metrics(metrics[direction].get("identity", {})),
            protocol=metrics["protocol"],
            per_image=per_image[per_image["direction"] == direction],
        )
        gate = choose_metric(getattr(params.registry.gate, direction), direction, evaluation)
        candidates.append(
            Candidate(
                direction,
                files[direction],
                channels[source],
                channels[target],
                evaluation,
                gate,
                evaluated / "grid.png",
                domains=(names.of(source), names.of(target)),
                facts=facts,
                with_onnx="onnx" in params.registry.export,
            )
        )
    return candidates


def _write_report(
    project: Project, params: Params, run_id: str, url: str, versions: Sequence[RegisteredVersion]
) -> None:
    """Write `reports/register.json` and `reports/register.html`."""
    report = {
        version.direction: {
            "name": version.name,
            "version": version.version,
            "uri": version.uri,
            "alias": "champion" if version.champion == version.version else "challenger",
            "champion": version.champion,
            "gate": version.decision.as_dict(),
        }
        for version in versions
    }
    write_json(project.reports / "register.json", {"run_id": run_id, **report})
    write_register_report(
        project.reports / "register.html",
        report,
        title=params.data.dataset,
        run_url=url,
        names=params.data.domain_names,
    )


def _read_table(file: Path) -> pd.DataFrame:
    """Read the metrics of each test image.

    Raises:
        UserError: the table is missing or corrupt.
    """
    require_file(file, "evaluate")
    try:
        table = read_per_image(file)
        missing = {"direction", "domain", "id"} - set(table)
        reason = f"without {', '.join(sorted(missing))}" if missing else ""
    except ValueError as error:
        reason = one_line(error)
    if reason:
        raise UserError(f"{file}: corrupt ({reason}); regenerate it with 'dvc repro --force evaluate'")
    return table

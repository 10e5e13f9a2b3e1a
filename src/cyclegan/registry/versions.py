"""Registration of a run's generators in the MLflow model registry."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cyclegan.registry.champion import Move, champion_of, move, moves, registry_lock, rolled_back_versions, upsert
from cyclegan.registry.concurrent_moves import settle
from cyclegan.registry.gate import Decision, decide
from cyclegan.registry.measurements import Measured
from cyclegan.registry.model_card import ModelCard
from cyclegan.registry.model_page import update_model_page
from cyclegan.registry.served_form import content_digest, save_served
from cyclegan.system.digests import file_digest
from cyclegan.tracking.series import MAIN_METRICS
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import is_permanent

CHALLENGER = "challenger"
EVALUATION = "evaluation"
CONTENT_TAG = "content.sha256"
WEIGHTS_TAG = "model.sha256"
CARD = "model_card.md"
# Lineage that later commands read from a version. The rest of it is in the model card and in the run's tags.
LINEAGE_TAGS = ("git.commit", "git.dirty", "data.md5")


@dataclass(frozen=True)
class Candidate:
    """A trained generator to register."""

    direction: str
    """`AtoB` or `BtoA`."""
    path: Path
    """The `.keras` file."""
    channels_in: int
    channels_out: int
    measured: Measured
    """Measurements on the test split."""
    gate: str
    """The metric that decides whether it becomes champion."""
    grid: Path | None = None
    """A PNG file with test images and their translations, for the model card."""
    domains: tuple[str, str] | None = None
    """The names of the source and the target domain; None: those of the direction, A and B."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Data, license and sizes, for the model card."""
    with_onnx: bool = False
    """Whether its version also holds an ONNX file."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    direction: str
    name: str
    version: str
    model_id: str
    reused: bool
    """Whether it was registered before."""
    decision: Decision
    """The decision of the gate."""
    champion: str | None
    """The current champion; None if there is none."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(
    store: Store,
    run_id: str,
    dataset: str,
    candidates: Iterable[Candidate],
    *,
    bit_depth: int = 8,
    tags: Mapping[str, str],
) -> list[RegisteredVersion]:
    """Make each candidate a version of `<dataset>-<direction>`, alias `challenger`, and champion if it is better.

    The same generator of the same run with the same serving code keeps its version. Repeating this, even after a kill,
    only updates metrics, tags and description. The run's status does not change. Each direction is decided
    independently. Processes on one machine register one after the other. If several machines register at the same
    moment, their versions are compared as if they had done so, too.

    Args:
        run_id: the training's run in `store`.
        bit_depth: of the images, 8 (uint8) or 16 (uint16).
        tags: lineage for every version: commit, DVC stage, md5 of the data, and others.
    """
    with registry_lock(store):
        return [_register(store, run_id, dataset, candidate, bit_depth, tags) for candidate in candidates]


def _register(
    store: Store, run_id: str, dataset: str, candidate: Candidate, bit_depth: int, tags: Mapping[str, str]
) -> RegisteredVersion:
    model = log_generator(store, run_id, candidate, bit_depth)
    name = f"{dataset}-{candidate.direction}"
    source, target = candidate.domains or (candidate.direction[0], candidate.direction[-1])
    create_model(store, name, {"dataset": dataset, "direction": candidate.direction})
    store.client.set_registered_model_tag(name, "domains", f"{source} → {target}")
    uri = f"models:/{model.model_id}"
    found = _version_from(store, name, uri)
    version = str((found or store.client.create_model_version(name, uri, run_id, model_id=model.model_id)).version)
    store.client.set_model_version_tag(name, version, WEIGHTS_TAG, model.tags[WEIGHTS_TAG])
    known = moves(store, name)
    decision = decision_on(store, name, version, candidate.measured, candidate.gate)
    # A version that is registered again keeps its first reason, unless it becomes champion now.
    first_reason = None if found is None or decision.promote else found.tags.get("gate.reason")
    reason = first_reason or decision.reason
    details = {
        **{key: tags[key] for key in LINEAGE_TAGS if key in tags},
        "gate.metric": decision.metric,
        "gate.reason": reason,
        f"metric.{decision.metric}": f"{decision.value:.6g}",
    }
    for key, value in details.items():
        store.client.set_model_version_tag(name, version, key, value)
    run = store.client.get_run(run_id)
    searched = {key: value for key, value in run.data.tags.items() if key.startswith("search.")}
    card = ModelCard(
        name=name,
        version=version,
        source=source,
        target=target,
        direction=candidate.direction,
        dtype=f"uint{bit_depth}",
        channels_in=candidate.channels_in,
        channels_out=candidate.channels_out,
        model_id=model.model_id,
        measured=candidate.measured,
        reason=reason,
        run_id=run_id,
        experiment_id=run.info.experiment_id,
        params=run.data.params,
        facts=candidate.facts,
        tags={**searched, **tags, WEIGHTS_TAG: model.tags[WEIGHTS_TAG]},
        store=store.display_uri,
        has_grid=candidate.grid is not None,
    )
    _write_card(store, card)
    # Set the alias last, so that it never names an incomplete version.
    upsert(store.client.set_registered_model_alias, name, CHALLENGER, version)
    if decision.promote:
        decision = make_champion(store, name, version, decision, known)
    update_model_page(store, name)
    return RegisteredVersion(
        candidate.direction, name, version, model.model_id, found is not None, decision, champion_of(store, name)
    )


def _write_card(store: Store, card: ModelCard) -> None:
    """Write the model card as a file of the model, and as the version's description."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CARD).write_text(card.file(), encoding="utf-8")
        store.client.log_model_artifacts(card.model_id, folder)
    store.client.update_model_version(card.name, card.version, card.description())


def create_model(store: Store, name: str, tags: Mapping[str, str]) -> None:
    """Create a registered model. An existing one keeps its tags."""
    try:
        store.client.create_registered_model(name, dict(tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def make_champion(store: Store, name: str, version: str, decision: Decision, known: Sequence[Move]) -> Decision:
    """Make a version champion, unless another machine has promoted a better one at the same moment.

    Args:
        decision: the decision of the gate to promote it.
        known: the recorded moves of the alias, read before the decision.

    Returns:
        `decision`, or the decision against the version that has become champion instead.
    """

    def is_better(one: str, champion: str | None) -> bool:
        found = recorded_decision(store, name, one, champion)
        return found is not None and found.promote

    made = move(store, name, version, "register", decision.reason)
    settle(store, name, made, known, is_better)
    champion = champion_of(store, name)
    return decision if champion == version else recorded_decision(store, name, version, champion) or decision


def decision_on(store: Store, name: str, version: str, measured: Measured, metric: str) -> Decision:
    """The decision of the gate on a version of `name` with these measurements."""
    return _decision_against(store, name, version, measured, metric, champion_of(store, name))


def recorded_decision(store: Store, name: str, version: str, champion: str | None) -> Decision | None:
    """The gate's decision on a registered version against this champion; None without an evaluation on record."""
    measured = load_measurements(store, name, version)
    metric = store.client.get_model_version(name, version).tags.get("gate.metric")
    if measured is None or metric is None:
        return None
    return _decision_against(store, name, version, measured, metric, champion)


def _decision_against(
    store: Store, name: str, version: str, measured: Measured, metric: str, champion: str | None
) -> Decision:
    value = measured.metrics[metric]
    if champion == version:
        return Decision(metric, value, promote=False, reason="already the champion")
    weights, by_hand = _weights(store, name, version), f"'cyclegan registry promote {name} {version}'"
    # Compare weights: with other code, the same generator is another version.
    if weights is not None and weights in {_weights(store, name, other) for other in rolled_back_versions(store, name)}:
        reason = f"this generator was champion and was rolled back; run {by_hand} to restore it"
        return Decision(metric, value, promote=False, reason=reason)
    if champion is None:
        return decide(metric, measured)
    if weights is not None and weights == _weights(store, name, champion):
        reason = f"the same generator as the champion, version {champion}; run {by_hand} to replace it"
        return Decision(metric, value, promote=False, reason=reason)
    champion_measured = load_measurements(store, name, champion)
    if champion_measured is None:
        reason = f"not comparable: the champion, version {champion}, has no evaluation on record"
        return Decision(metric, value, promote=False, reason=reason)
    return decide(metric, measured, champion_measured, champion)


def _weights(store: Store, name: str, version: str) -> str | None:
    """The digest of a version's weights; None if the version is missing or from another program."""
    try:
        return store.client.get_model_version(name, version).tags.get(WEIGHTS_TAG)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def explain_decision(store: Store, name: str, version: str) -> str:
    """The current verdict of the gate on a registered version, for a user who moves the alias by hand."""
    decision = recorded_decision(store, name, version, champion_of(store, name))
    return f"version {version} has no evaluation on record" if decision is None else decision.reason


def load_measurements(store: Store, name: str, version: str) -> Measured | None:
    """Load the measurements of a registered version; None if it has no evaluation.

    Raises:
        MlflowException, OSError: the store is unavailable.
    """
    model_id = str(store.client.get_model_version(name, version).source).removeprefix("models:/")
    if "/" in model_id:
        # Another program registered this version. A server does not answer to such an id.
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            # List first: a server answers the download of a missing file as it does other failures.
            if not store.client.list_logged_model_artifacts(model_id, EVALUATION):
                return None
            location = store.client.get_logged_model(model_id).artifact_location
            found = mlflow.artifacts.download_artifacts(f"{location}/{EVALUATION}", dst_path=folder)
            return Measured.load(Path(found))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except MlflowException as error:
            if not is_permanent(error):
                raise
            return None


def log_generator(store: Store, run_id: str, candidate: Candidate, bit_depth: int = 8) -> LoggedModel:
    """Store a generator as a served model of the run, unless the run already has it.

    The run's main metrics, `test_<direction>/<name>`, become metrics of the model. All metrics, the table per image and
    the grid are in the model's folder `evaluation`.
    """
    run = store.client.get_run(run_id)
    weights = file_digest(candidate.path)
    content = content_digest(weights, bit_depth, candidate.with_onnx)
    alike = store.client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}' AND tags.`{CONTENT_TAG}` = '{content}'"
    )
    model = None
    for other in alike:
        if other.name == f"G_{candidate.direction}" and other.status == LoggedModelStatus.READY:
            model = other
        elif other.status == LoggedModelStatus.PENDING:
            # A process was killed while it stored this model.
            store.client.delete_logged_model(other.model_id)
    if model is None:
        model = store.client.create_logged_model(
            run.info.experiment_id,
            name=f"G_{candidate.direction}",
            source_run_id=run_id,
            tags={WEIGHTS_TAG: weights, CONTENT_TAG: content},
            params={"bit_depth": str(bit_depth), "direction": candidate.direction},
            model_type="generator",
        )
        with tempfile.TemporaryDirectory() as folder:
            channels = (candidate.channels_in, candidate.channels_out)
            save_served(Path(folder) / "model", model, candidate.path, channels, bit_depth, candidate.with_onnx)
            store.client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        model = store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    with tempfile.TemporaryDirectory() as folder:
        candidate.measured.save(Path(folder))
        if candidate.grid is not None:
            shutil.copyfile(candidate.grid, Path(folder) / "grid.png")
        store.client.log_model_artifacts(model.model_id, folder, EVALUATION)
    _log_metrics(store, run_id, model, candidate)
    return model


def _log_metrics(store: Store, run_id: str, model: LoggedModel, candidate: Candidate) -> None:
    """Link the main metrics to the model, for MLflow's comparison of models, without a second point on the run."""
    known = {metric.key: metric.value for metric in model.metrics or []}
    measured = candidate.measured.metrics
    for name in dict.fromkeys([candidate.gate, *MAIN_METRICS]):
        key = f"test_{candidate.direction}/{name}"
        if name not in measured or known.get(key) == measured[name] or not math.isfinite(measured[name]):
            continue
        # MLflow treats a point of equal value, step and time as the same point.
        history = [point for point in store.client.get_metric_history(run_id, key) if point.value == measured[name]]
        if not history and name != candidate.gate:
            # Stage evaluate has not made it a series.
            continue
        now = history[-1].timestamp if history else time.time_ns() // 1_000_000
        step = history[-1].step if history else 0
        point = Metric(key, float(measured[name]), now, step, model_id=model.model_id)
        store.client.log_batch(run_id, metrics=[point], synchronous=True)


def _version_from(store: Store, name: str, source: str) -> ModelVersion | None:
    versions = store.client.search_model_versions(f"name = '{name}' AND source_path = '{source}'")
    return versions[0] if versions else None

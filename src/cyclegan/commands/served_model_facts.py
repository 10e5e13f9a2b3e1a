"""What the page of `cyclegan serve` shows about a model, as far as the project knows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.commands.model_argument import is_of_project
from cyclegan.domains import DIRECTIONS, PLAIN_NAMES, Direction, DomainNames
from cyclegan.params import Params, load
from cyclegan.project import Project
from cyclegan.serving.app import About
from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def describe_model(model: str) -> About:
    """The domains, the version and the training size of MODEL; what is unknown is left out.

    Args:
        model: a `.keras` file, or a registered model (`models:/…`) of the current store.
    """
    if model.startswith("models:/"):
        return _registered(model.removeprefix("models:/"))
    direction = next((name for name in DIRECTIONS if Path(model).stem.endswith(name)), None)
    params = _params()
    if params is None or direction is None or not is_of_project(model, Project.find()):
        return _about(model, direction, PLAIN_NAMES, {})
    size = params.training_size
    return _about(model, direction, params.data.domain_names, {"trained at": _pixels(size) if size else None})


def _registered(reference: str) -> About:
    """The facts on `NAME@ALIAS` or `NAME/VERSION`, from the registry and the run of the training."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    name = re.split(r"[@/]", reference)[0]
    try:
        client = MlflowClient()
        version = _find_version(client, reference)
        tags = client.get_registered_model(name).tags
        run = client.get_run(str(version.run_id)).data.params if version.run_id else {}
    # The model is loaded already, so the page can do without its facts.
    except MlflowException:
        return _about(reference, None, PLAIN_NAMES, {})
    direction = next((direction for direction in DIRECTIONS if direction == tags.get("direction")), None)
    aliases = f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""
    facts = {"version": f"{version.version}{aliases}", "trained at": _training_size(run)}
    # Registered by an earlier version, a model has no tag of its domains.
    source, arrow, target = tags.get("domains", "").partition(" → ")
    if arrow:
        return About(name, source, target, _known(facts))
    return _about(name, direction, _names(tags.get("dataset")), facts)


def _find_version(client: MlflowClient, reference: str) -> ModelVersion:
    name, separator, alias = reference.partition("@")
    if separator:
        # Get the version by its number: the answer for an alias lacks the other aliases.
        return client.get_model_version(name, client.get_model_version_by_alias(name, alias).version)
    name, _, number = reference.partition("/")
    return client.get_model_version(name, number)


def _training_size(run: Mapping[str, str]) -> str | None:
    """The size of a training's images, from the parameters of its run; None if the data decided."""
    for key in ("train.crop_size", "data.load_size"):
        if sides := [int(side) for side in re.findall(r"\d+", run.get(key, ""))]:
            return _pixels((sides[0], sides[-1]))
    return None


def _names(dataset: str | None) -> DomainNames:
    """The names of the domains from the project, if it has the same data set."""
    params = _params()
    return params.data.domain_names if params is not None and params.data.dataset == dataset else PLAIN_NAMES


def _about(title: str, direction: Direction | None, names: DomainNames, facts: Mapping[str, str | None]) -> About:
    if direction is None:
        return About(title, facts=_known(facts))
    source, target = DIRECTIONS[direction]
    return About(title, names.of(source), names.of(target), _known(facts))


def _known(facts: Mapping[str, str | None]) -> dict[str, str]:
    return {label: value for label, value in facts.items() if value is not None}


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]} pixels"


def _params() -> Params | None:
    """The parameters of the project of the current directory; None outside a project, or if they are invalid."""
    try:
        return load(Project.find().params)
    except UserError:
        return None

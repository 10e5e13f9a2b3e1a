"""The parameters of stage `train`: params.yaml with the overrides that stage `search` found."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan.params import Params, flatten, read, validate
from cyclegan.project import Project
from cyclegan.system.errors import UserError

SECTIONS = ("model", "train")
ORIGIN = "origin"
"""Key of `best.yaml` with the study and trial that the values come from."""


@dataclass(frozen=True)
class Effective:
    """Parameters with the overrides of `best.yaml`, and their origin.

    Attributes:
        params: params.yaml with the values of the search.
        replaced: each key that `best.yaml` sets, as
            `{"train.loss_weights.identity.AtoB": {"params.yaml": 0.5, "best.yaml": 2.0}}`.
        origin: study, trial and MLflow run of these values; empty without a search.
    """

    params: Params
    replaced: Mapping[str, Mapping[str, Any]]
    origin: Mapping[str, Any]

    @property
    def tags(self) -> dict[str, str]:
        """Overrides and origin as tags of an MLflow run."""
        values = {
            f"search.replaced.{key}": f"{both['best.yaml']} (params.yaml: {both['params.yaml']})"
            for key, both in self.replaced.items()
        }
        return values | {f"search.{key}": str(value) for key, value in self.origin.items()}


def effective(project: Project) -> Effective:
    """Read params.yaml, with the overrides of `reports/search/best.yaml` if that exists.

    Raises:
        UserError: one file, or both together, are not valid; the message names the file.
    """
    tree = read(project.params)
    base = validate(tree, project.params.name)
    file = project.best
    found = read(file) if file.is_file() else {}
    if not isinstance(found, dict) or not set(found) <= {ORIGIN, *SECTIONS}:
        raise UserError(
            f"{_relative(file, project)}: may hold sections {', '.join(SECTIONS)} only; run 'dvc repro search'"
        )
    values = {section: found[section] for section in SECTIONS if section in found}
    if not values:
        return Effective(base, {}, {})
    name = f"{project.params.name} with the overrides of {_relative(file, project)}"
    params = validate(overlaid(tree, values), name)
    keys = [key for key, _ in flatten(values)]
    before, after = dict(flatten(base.model_dump())), dict(flatten(params.model_dump()))
    replaced = {
        key: {"params.yaml": before[key], "best.yaml": value}
        for key, value in after.items()
        if any(key == set_key or key.startswith(f"{set_key}.") for set_key in keys)
    }
    return Effective(params, replaced, found.get(ORIGIN, {}))


def overlaid(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings with some leaves replaced; a mapping may replace a plain value."""
    result = dict(copy.deepcopy(tree))
    for key, value in values.items():
        below = result.get(key)
        result[key] = overlaid(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.epochs": 3}` as `{"train": {"epochs": 3}}`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return tree


def _relative(file: Path, project: Project) -> str:
    return file.relative_to(project.root).as_posix()

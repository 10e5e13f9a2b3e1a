"""Presets: tested parameters in `presets/`; each file holds only values that differ from the defaults."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from cyclegan.params import Params, flatten, read, validate
from cyclegan.params.section import plain
from cyclegan.params.yaml_text import header_of, yaml_text
from cyclegan.project import Project
from cyclegan.system.credentials import shown_parameter
from cyclegan.system.errors import UserError
from cyclegan.system.files import write_text


def preset_names(project: Project) -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(file.stem for file in project.presets.glob("*.yaml"))


def apply_preset(project: Project, name: str) -> list[str]:
    """Write `params.yaml` from the defaults and a preset.

    Returns:
        One line for each value that changes, with the old and the new value.

    Raises:
        UserError: there is no such preset, or it is not a valid parameter file.
    """
    names = preset_names(project)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
        raise UserError(f"preset {name!r} does not exist; {hint}")
    file = project.presets / f"{name}.yaml"
    params = validate(read(file), file.name)
    old = read(project.params) if project.params.exists() else {}
    before = dict(flatten(old)) if isinstance(old, dict) else {}
    after = dict(flatten(plain(params)))
    write_params(project.params, params, header_of(file.read_text(encoding="utf-8")))
    missing = "(none)"
    changes = [
        f"{key}: {shown_parameter(key, before.get(key, missing))} -> {shown_parameter(key, after.get(key, missing))}"
        for key in {**after, **before}
        if before.get(key, missing) != after.get(key, missing)
    ]
    return changes or [f"params.yaml already holds the values of preset {name}"]


def write_params(path: Path, params: Params, header: str) -> None:
    """Write a complete parameter file with the description of every key."""
    # Keep a symbolic link and write the user's file behind it. DVC replaces only outputs by links into its cache.
    write_text(Path(os.path.realpath(path)), yaml_text(params, header))

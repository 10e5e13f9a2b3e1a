"""Where a result came from: commit, DVC stage and experiment, versions, and the md5 of the data."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib import metadata

from ruamel.yaml import YAML

from cyclegan.project import Project

DISTRIBUTIONS = ("cyclegan", "tensorflow", "tensorflow-cpu", "keras", "mlflow", "dvc", "numpy")
# What git tracks and the pipeline or `dvc exp run -S` writes. It says nothing about the code; parameters are recorded.
WRITTEN = ("dvc.lock", "params.yaml", "reports")


def tags(project: Project) -> dict[str, str]:
    """Return what is known about this process and its code, as tags of an MLflow run.

    `git.dirty` is `true` if a tracked file differs from the commit; params.yaml and the pipeline's own outputs do not
    count. What does not apply (no git, a project outside git, a stage started without DVC) is left out.
    """
    found = {"host": socket.gethostname(), "version.python": platform.python_version()}
    for name in DISTRIBUTIONS:
        if version := installed(name):
            found[f"version.{name}"] = version
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME")):
        if value := os.environ.get(variable):
            found[tag] = value
    # A project that merely lies inside somebody's repository does not have that one's history.
    if _git(project, "ls-files", "--error-unmatch", "dvc.yaml") and (commit := _git(project, "rev-parse", "HEAD")):
        excluded = [f":(exclude){path}" for path in WRITTEN]
        changed = _git(project, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
        found["git.commit"] = commit
        if changed is not None:
            found["git.dirty"] = "true" if changed else "false"
        # The name under which MLflow's own pages look for it.
        found["mlflow.source.git.commit"] = commit
    return found


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_versioned(project: Project, path: str) -> bool:
    """Whether git or DVC keeps a folder of the project; True where the project is not in git."""
    tracked = _git(project, "ls-files", "--", path)
    places = (project.root / path, *(project.root / path).parents)
    return tracked != "" or any(place.with_name(f"{place.name}.dvc").is_file() for place in places if place.name)


def is_unchanged(project: Project, path: str) -> bool:
    """Whether git tracks a file of the project, and the file is as in the last commit."""
    tracked = _git(project, "ls-files", "--error-unmatch", "--", path)
    return tracked is not None and _git(project, "status", "--porcelain", "--", path) == ""


def dvc_lock_digest(project: Project, path: str) -> str | None:
    """Return the md5 that `dvc.lock` records for a stage output, such as `data/split` (36 characters for a folder).

    DVC writes it when the stage that makes the output ends, so later stages can rely on it. None if it is not there.
    """
    try:
        text = (project.root / "dvc.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    for stage in (YAML(typ="safe").load(text) or {}).get("stages", {}).values():
        for output in stage.get("outs", []):
            if output["path"] == path:
                digest = output.get("md5")
                return None if digest is None else str(digest)
    return None


def _git(project: Project, *arguments: str) -> str | None:
    """Output of git in the project; None if it fails or git is not installed."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(project.root), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

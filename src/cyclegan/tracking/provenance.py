"""The provenance of a result: commit, DVC stage and experiment, versions, and md5 of the data."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata

from ruamel.yaml import YAML

from cyclegan.project import Project

DISTRIBUTIONS = ("cyclegan", "tensorflow", "tensorflow-cpu", "keras", "mlflow", "dvc", "numpy")
# Tracked files that the pipeline or `dvc exp run -S` writes. Their changes do not make the code differ.
PIPELINE_FILES = ("dvc.lock", "params.yaml", "reports")


def tags(project: Project) -> dict[str, str]:
    """Tags of an MLflow run that describe this process and its code.

    `git.dirty` is `true` if a tracked file other than params.yaml and the pipeline's outputs differs from the commit.
    Tags that do not apply are left out: outside git, or in a stage started without DVC.
    """
    known = {"host": socket.gethostname(), "versions": versions(), **_source()}
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.exp", "DVC_EXP_NAME")):
        if value := os.environ.get(variable):
            known[tag] = value
    # A project that lies in another repository, untracked, does not have that repository's history.
    if _git(project, "ls-files", "--error-unmatch", "dvc.yaml") and (commit := _git(project, "rev-parse", "HEAD")):
        excluded = [f":(exclude){path}" for path in PIPELINE_FILES]
        changed = _git(project, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
        known["git.commit"] = commit
        if changed is not None:
            known["git.dirty"] = "true" if changed else "false"
    elif commit := os.environ.get("CYCLEGAN_GIT_COMMIT"):
        # The container image has no history. It records the commit that it was built from.
        known["git.commit"] = commit
    if "git.commit" in known:
        # MLflow's pages display the commit under this name.
        known["mlflow.source.git.commit"] = known["git.commit"]
    return known


def versions() -> str:
    """The versions of Python and the main libraries, on one line."""
    found = [f"{name} {version}" for name in DISTRIBUTIONS if (version := installed(name))]
    return ", ".join([f"python {platform.python_version()}", *found])


def _source() -> dict[str, str]:
    """The tags for column "Source" of MLflow's pages: the command of this process."""
    command = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].isidentifier() else os.environ.get("DVC_STAGE", "")
    return {"mlflow.source.name": f"cyclegan {command}".rstrip(), "mlflow.source.type": "LOCAL"}


def installed(distribution: str) -> str | None:
    """The version of a distribution, without importing it; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_versioned(project: Project, path: str) -> bool:
    """Whether git or DVC tracks a folder of the project; True if the project is not in git."""
    tracked = _git(project, "ls-files", "--", path)
    places = (project.root / path, *(project.root / path).parents)
    return tracked != "" or any(place.with_name(f"{place.name}.dvc").is_file() for place in places if place.name)


def is_unchanged(project: Project, path: str) -> bool:
    """Whether git tracks a file of the project, and the file is as in the last commit."""
    tracked = _git(project, "ls-files", "--error-unmatch", "--", path)
    return tracked is not None and _git(project, "status", "--porcelain", "--", path) == ""


def dvc_lock_digest(project: Project, path: str) -> str | None:
    """The md5 that `dvc.lock` records for a stage output, such as `data/split`; None if there is none.

    It has 36 characters for a folder. DVC writes it when the stage ends, so later stages can rely on it.
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
    """The output of git in the project; None if git fails or is not installed."""
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

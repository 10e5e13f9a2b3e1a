"""A real project in a folder of its own: real DVC, a real MLflow store, the embedded pictures, tiny networks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
COPIED = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "params.yaml",
    "data/fluent-emoji",
    "presets",
)
TINY = {
    "model": {"base_filters": 4, "blocks": 1, "patch_layers": 1, "discriminator_filters": 4},
    "train": {"epochs": 2, "steps_per_epoch": 6, "crop_size": 32, "log_every": 4, "evaluate_every": 1, "pool_size": 3},
}


@dataclass(frozen=True)
class Sandbox:
    """A project folder and ways to use it as a person would."""

    root: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; its output is captured."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**environment), capture_output=True, text=True, check=False
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self, **more: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
        return {**clean, "PATH": path, "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", **more}

    def configure(self, **sections: dict[str, Any]) -> None:
        """Set keys of params.yaml."""
        yaml, file = YAML(), self.root / "params.yaml"
        tree = yaml.load(file)
        for section, values in sections.items():
            tree[section].update(values)
        yaml.dump(tree, file)

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    @property
    def client(self) -> MlflowClient:
        uri = f"sqlite:///{self.root}/mlruns/mlflow.db"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture(scope="session")
def make_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Sandbox]:
    """A new project with tiny networks, committed to git."""

    def make() -> Sandbox:
        sandbox = Sandbox(tmp_path_factory.mktemp("project"))
        for name in COPIED:
            source, target = ROOT / name, sandbox.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        # The stages depend on the code; the installed package is what runs.
        shutil.copytree(ROOT / "src", sandbox.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        sandbox.configure(**TINY)
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        sandbox.run("git", "init", "--quiet")
        sandbox.run("git", "add", "--all")
        sandbox.run("git", *identity, "commit", "--quiet", "--message", "start")
        return sandbox

    return make


@pytest.fixture(scope="session")
def finished(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A project in which the whole pipeline has run once. Tests that change it put it back."""
    sandbox = make_sandbox()
    sandbox.run("dvc", "repro")
    return sandbox

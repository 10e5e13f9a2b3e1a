"""A real project in a folder of its own, to be used as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from ruamel.yaml import YAML


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

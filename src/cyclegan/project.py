"""Paths of a project: its root and the files that stages exchange."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cyclegan.system.errors import UserError


@dataclass(frozen=True)
class Project:
    """The folder that holds `dvc.yaml`, and every path derived from it.

    Paths start at the root and never at the working directory. `dvc exp run --temp` and `--queue` run stages in a
    temporary copy, and a relative MLflow URI would be deleted together with the copy.

    Attributes:
        root: the working copy of the running stage. A stage reads its inputs here, where DVC hashes them.
        home: the user's own project, which differs from `root` only in a temporary DVC experiment. It holds only what
            is outside version control: MLflow's store, checkpoints, studies and downloads.
    """

    root: Path
    home: Path

    @classmethod
    def find(cls) -> Project:
        """Find the project of the current directory.

        Raises:
            UserError: neither this directory nor a parent has a `dvc.yaml`.
        """
        here = Path.cwd().resolve()
        for folder in (here, *here.parents):
            if (folder / "dvc.yaml").is_file():
                # DVC_ROOT names the user's project even when the stage runs in a temporary copy.
                home = os.environ.get("DVC_ROOT")
                return cls(root=folder, home=Path(home) if home else folder)
        raise UserError(f"{here}: no dvc.yaml in this folder or its parents; run this command inside a project")

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def presets(self) -> Path:
        return self.root / "presets"

    @property
    def embedded_data(self) -> Path:
        return self.root / "data" / "fluent-emoji"

    @property
    def checksums(self) -> Path:
        """Committed SHA-256 checksums of the public data sets; the first download of a set adds its own."""
        return self.root / "data" / "checksums.json"

    @property
    def downloads(self) -> Path:
        """Downloaded archives, git-ignored and shared with temporary experiments."""
        return self.home / "data" / "downloads"

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def split(self) -> Path:
        return self.root / "data" / "split"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def best(self) -> Path:
        """The result of stage `search`: values that override those of params.yaml, or none."""
        return self.reports / "search" / "best.yaml"

    @property
    def studies(self) -> Path:
        """Studies of searches; git-ignored and outside DVC's outputs, so that a killed search can resume."""
        return self.home / ".search"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints; git-ignored and outside DVC's outputs, so that a killed training can resume."""
        return self.home / "checkpoints"

    @property
    def mlruns(self) -> Path:
        return self.home / "mlruns"

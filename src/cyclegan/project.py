"""Where things lie: the project root and the files that the stages hand to each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cyclegan.system.errors import UserError


@dataclass(frozen=True)
class Project:
    """The folder that holds `dvc.yaml`, and every path that is derived from it.

    Paths are built from the root and never from the working directory: `dvc exp run --temp` and `--queue` run
    stages in a throw-away copy, where a relative MLflow URI would be deleted together with the copy.
    """

    root: Path
    """The working copy that the running stage belongs to."""

    home: Path
    """The user's own project. Differs from `root` only inside a temporary DVC experiment.

    Only what is outside version control belongs here: MLflow's store, checkpoints, studies, downloads. A stage's
    inputs are read from `root`, where DVC hashes them."""

    @classmethod
    def find(cls) -> Project:
        """Find the project that the current directory lies in.

        Raises:
            UserError: no `dvc.yaml` in this directory or above it.
        """
        here = Path.cwd().resolve()
        for folder in (here, *here.parents):
            if (folder / "dvc.yaml").is_file():
                # DVC_ROOT names the user's project even when the stage runs in a temporary copy.
                home = os.environ.get("DVC_ROOT")
                return cls(root=folder, home=Path(home) if home else folder)
        raise UserError(f"no dvc.yaml in {here} or above it: run this command inside the project's folder")

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
        """Committed SHA-256 sums of the public sets, filled on first use."""
        return self.root / "data" / "checksums.json"

    @property
    def downloads(self) -> Path:
        """Archives kept between runs, git-ignored; shared by temporary experiments."""
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
        """What stage `search` found: values that replace those of params.yaml, or none."""
        return self.reports / "search" / "best.yaml"

    @property
    def studies(self) -> Path:
        """Where searches are kept, so that a killed one goes on; git-ignored and outside DVC's outputs."""
        return self.home / ".search"

    @property
    def checkpoints(self) -> Path:
        """Git-ignored and outside DVC's outputs, so that a killed training finds its state again."""
        return self.home / "checkpoints"

    @property
    def mlruns(self) -> Path:
        return self.home / "mlruns"

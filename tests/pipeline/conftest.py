"""Projects for the tests: real DVC, a real MLflow store, the embedded images, tiny networks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox import Sandbox

ROOT = Path(__file__).parents[2]
COPIED = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "Makefile",
    "dvc.yaml",
    "params.yaml",
    "data/features",
    "data/fluent-emoji",
    "data/pretrained",
    "data/.gitignore",
    "models/.gitignore",
    "presets",
    "reports/.gitignore",
    "reports/evaluate/.gitignore",
    "reports/train/.gitignore",
)
TINY = {
    "model": {"generator": "resnet", "base_filters": 4, "blocks": 1, "patch_layers": 1, "discriminator_filters": 4},
    "train": {"epochs": 2, "steps_per_epoch": 6, "crop_size": 32, "log_every": 4, "evaluate_every": 1, "pool_size": 3},
}


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
        # Copy the code, because the stages depend on it. The installed package is what runs.
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
    """A project in which the whole pipeline has run once. Tests that change it restore it."""
    sandbox = make_sandbox()
    sandbox.run("dvc", "repro")
    return sandbox

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.tracking.store import Store, open_store

DEFAULT = Tracking(uri=None, experiment=None, offline=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return Project(root=tmp_path, home=tmp_path)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for the tests that only add runs of their own, in a folder with special characters in its name."""
    root = tmp_path_factory.mktemp("Über %20 #1 project")
    return open_store(Project(root=root, home=root), DEFAULT)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def opened(project: Project) -> Callable[..., Store]:
    """Open the test's own store."""

    def open_it(uri: str | None = None) -> Store:
        return open_store(project, Tracking(uri=uri, experiment=None, offline=False))

    return open_it

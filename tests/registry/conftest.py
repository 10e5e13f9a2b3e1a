from __future__ import annotations

from pathlib import Path

import pytest

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.tracking.store import Store, open_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("registry project")
    return open_store(Project(root=root, home=root), Tracking(uri=None, experiment=None, offline=False))

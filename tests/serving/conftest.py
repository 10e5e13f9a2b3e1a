from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Served, serving

from cyclegan.models.generator import build_generator


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator whose file has a name that must be escaped on a page."""
    path = tmp_path_factory.mktemp("served") / "<b>bold&.keras"
    build_generator(3, 3, base_filters=4, blocks=1, seed=0).save(path)
    return path


@pytest.fixture(scope="session")
def served(model: Path) -> Iterator[Served]:
    with serving(model, "--max-megabytes", "0.2", "--max-megapixels", "0.01") as running:
        yield running

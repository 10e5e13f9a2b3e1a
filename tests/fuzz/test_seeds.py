"""The inputs that fuzzing starts from, and those it has found, go through the doors with every test run."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import MAX_LENGTH, SEEDS, check

KEPT = sorted(SEEDS.iterdir())


@pytest.mark.parametrize("seed", KEPT, ids=lambda seed: seed.name)
def test_a_kept_input_ends_well(seed: Path, tmp_path: Path) -> None:
    content = seed.read_bytes()
    assert len(content) <= MAX_LENGTH
    outcome = check(content, tmp_path)
    if not seed.name.startswith("found-"):
        refused = seed.name.removeprefix("archive-") in ("zip-link", "zip-locked", "zip-outside", "tar-symlink")
        refused |= seed.name == "archive-zip-overlapping"
        assert (outcome == "refused") == refused


def test_the_seeds_reach_every_door() -> None:
    assert {seed.name.split("-")[0] for seed in KEPT} >= {"archive", "image"}

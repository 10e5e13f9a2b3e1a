"""Two folders of one's own: `cyclegan init`, then `dvc repro` without another word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import Sandbox


def paint(folder: Path, seed: int) -> None:
    """Forty images of blocks, larger than any network of the test."""
    folder.mkdir(parents=True)
    for n, blocks in enumerate(np.random.default_rng(seed).integers(0, 256, (40, 4, 4, 3), np.uint8)):
        Image.fromarray(blocks).resize((40, 36), Image.Resampling.NEAREST).save(folder / f"{n}.png")


@pytest.mark.slow
def test_three_commands_from_two_folders_to_a_report(make_sandbox: Callable[[], Sandbox]) -> None:
    sandbox = make_sandbox()
    for seed, name in enumerate("AB"):
        paint(sandbox.root / "own" / name, seed)
    # Its params.yaml is as in the commit, so nothing asks; a second run would.
    printed = sandbox.run("cyclegan", "init", "own/A", "own/B", "--epochs", "2").stdout
    assert "A: 40 images, 40×36 pixels, 40 RGB, 8 bits" in printed
    refused = sandbox.run("cyclegan", "init", "own/A", "own/B", check=False)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)

    sandbox.run("dvc", "repro")
    for file in ("data.png", "train/samples.png", "evaluate/report.html", "evaluate/details.json"):
        assert (sandbox.root / "reports" / file).is_file()
    run = sandbox.json("reports/train/run.json")
    assert (run["dataset"], run["steps"], run["kept"]["select"]) == ("own", 2 * 32, "kid")
    # git sees the parameters and nothing else of init's.
    changed = sandbox.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    assert "params.yaml" in changed
    assert "data.png" not in changed

    checked = sandbox.run("cyclegan", "doctor")
    assert "FAIL" not in checked.stdout
    assert "64 steps take" in checked.stdout

"""Eight images per domain: the pipeline runs to its end, and each stage prints what these images do not allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import Sandbox

VAL, TEST = "1 val image: no KID (needs 2)", "1 test image: no KID (needs 2)"


def paint(folder: Path, seed: int) -> None:
    folder.mkdir()
    for n, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (8, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{n}.png")


@pytest.mark.slow
def test_every_stage_prints_what_is_missing(make_sandbox: Callable[[], Sandbox]) -> None:
    sandbox = make_sandbox()
    for seed, name in enumerate(("a", "b")):
        paint(sandbox.root / name, seed)
    sandbox.configure(
        data={"source": "folders", "folder_A": "a", "folder_B": "b", "load_size": 32, "name": "few"},
        train={"epochs": 1, "discriminator_batch": None},
    )
    lines = sandbox.run("dvc", "repro").stdout.splitlines()
    assert [line for line in lines if VAL in line] == [
        f"{VAL}, so train.select: auto keeps the last generators; add images or raise data.val_fraction",
        f"{VAL}, so train.select: auto keeps the last generators",
    ]
    printed = [line for line in lines if TEST in line]
    assert printed[0] == f"{TEST}, so no version becomes champion automatically; add images or raise data.test_fraction"
    assert [line.split()[0] for line in printed[1:3]] == ["AtoB", "BtoA"]
    assert all(f"stays challenger: {TEST}; raise data.test_fraction" in line for line in printed[3:5])
    assert len(printed) == 5
    assert sandbox.json("reports/train/run.json")["kept"]["select"] == "last"
    assert "cycle_l1 has no baseline" not in "\n".join(lines)

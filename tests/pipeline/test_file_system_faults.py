"""A full disk, a read-only folder, no permission, a locked database: one line, exit code 2, nothing half-written.

Real ones: a small tmpfs that is filled up or mounted again as read-only, real permissions, a lock that is held.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sandbox import Sandbox

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "split", "search", "train", "evaluate", "register")
OUTPUTS = ("data/raw", "data/split", "models", "reports")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class States:
    """The project as it is before each stage."""

    folder: Path

    def before(self, stage: str, target: Path) -> Path:
        shutil.copytree(self.folder / stage, target, symlinks=True)
        return target


# The message of the system, or of SQLite.
FULL = re.compile("no space left on device|disk is full", re.IGNORECASE)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> States:
    folder = tmp_path_factory.mktemp("states")
    sandbox = Sandbox(folder / "project")
    sandbox.root.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, sandbox.root)
    shutil.copytree(ROOT / "data/features", sandbox.root / "data/features")
    sandbox.configure(
        data={"source": "folders", "folder_A": "a", "folder_B": "b", "load_size": 16, "val_fraction": 0.25},
        model={"generator": "resnet", "base_filters": 4, "blocks": 1, "patch_layers": 1, "discriminator_filters": 4},
        train={"epochs": 1, "steps_per_epoch": 2, "crop_size": 16, "log_every": 2, "sample_images": 1},
        evaluate={"features_size": 32},
    )
    rng = np.random.default_rng(1)
    for name in "ab":
        (sandbox.root / name).mkdir()
        for number in range(12):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(sandbox.root / name / f"{number}.png")
    for stage in STAGES:
        shutil.copytree(sandbox.root, folder / stage, symlinks=True)
        sandbox.run("cyclegan", stage)
    return States(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def outputs(root: Path) -> dict[str, bytes]:
    files = [path for name in OUTPUTS for path in (root / name).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def refusal(root: Path, stage: str, *before: str) -> str:
    """The one line of a stage that must fail, without a training's progress bar."""
    done = Sandbox(root).run(*before, sys.executable, "-m", "cyclegan", stage, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "step/s" not in line and line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0].replace(str(root), "{root}")


@pytest.mark.parametrize("left_kib", [8, 600, 1200])
@pytest.mark.parametrize("stage", STAGES)
def test_full_disk(states: States, small_disk: Path, stage: str, left_kib: int) -> None:
    root = states.before(stage, small_disk / "project")
    before, free = outputs(root), os.statvfs(small_disk)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - left_kib * 1024)
    if left_kib == 8:
        line = refusal(root, stage)
        assert line.startswith("cyclegan: ")
        assert FULL.search(line)
        assert "{root}/" in line
        # The search writes several small files, and may have completed some of them.
        assert outputs(root) == before or (stage == "search" and before.items() <= outputs(root).items())
    else:
        # This is enough space for some stages, which then succeed.
        done = Sandbox(root).run(sys.executable, "-m", "cyclegan", stage, check=False)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert FULL.search(done.stderr.splitlines()[-1])
    filler.unlink()
    Sandbox(root).run(sys.executable, "-m", "cyclegan", stage)
    assert not list(root.rglob(".*.part*"))


@pytest.mark.parametrize("stage", STAGES)
def test_read_only_folder(states: States, small_disk: Path, stage: str) -> None:
    root = states.before(stage, small_disk / "project")
    before = outputs(root)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    line = refusal(root, stage)
    assert "Read-only file system" in line
    assert "{root}/" in line
    assert outputs(root) == before


@pytest.mark.parametrize("stage", STAGES)
def test_no_permission(states: States, tmp_path: Path, stage: str) -> None:
    """A super-user runs the stage without the privilege to ignore permissions."""
    drop = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if drop and shutil.which("setpriv") is None:
        pytest.skip("without setpriv permissions do not bind a super-user")
    root = states.before(stage, tmp_path / "project")
    before = outputs(root)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        line = refusal(root, stage, *drop)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert re.search("permission", line, re.IGNORECASE)
    assert "{root}/" in line
    assert outputs(root) == before


@pytest.mark.parametrize("stage", ["fetch", "split"])
def test_images_without_permission(states: States, tmp_path: Path, stage: str) -> None:
    drop = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if drop and shutil.which("setpriv") is None:
        pytest.skip("without setpriv permissions do not bind a super-user")
    root = states.before(stage, tmp_path / "project")
    folder = root / ("a" if stage == "fetch" else "data/raw/trainA")
    (folder / "3.png").chmod(0)
    done = Sandbox(root).run(*drop, sys.executable, "-m", "cyclegan", stage, check=False)
    (folder / "3.png").chmod(0o644)
    assert done.returncode == 2
    assert "3.png: no permission to read it" in done.stderr


@pytest.mark.parametrize("stage", ["train", "evaluate", "register"])
def test_locked_database(states: States, tmp_path: Path, stage: str) -> None:
    root = states.before(stage, tmp_path / "project")
    database = root / "mlruns/mlflow.db"
    if not database.exists():
        database.parent.mkdir(exist_ok=True)
        shutil.copy(states.folder / "evaluate" / "mlruns/mlflow.db", database)
    before = outputs(root)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        line = refusal(root, stage)
    assert "locked by another process" in line
    assert outputs(root) == before or stage == "evaluate"
    Sandbox(root).run(sys.executable, "-m", "cyclegan", stage)

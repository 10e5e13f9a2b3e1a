"""Folders are replaced completely or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan.system.files import replacing_folder


def test_success_replaces_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with replacing_folder(target) as new:
        (new / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["new"]


def test_failure_leaves_the_folder_untouched(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(ZeroDivisionError), replacing_folder(target) as new:
        (new / str(1 / 0)).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "larger-disk"
    elsewhere.mkdir()
    (elsewhere / "old").touch()
    target = tmp_path / "out"
    target.symlink_to(elsewhere)
    for _ in range(2):
        with replacing_folder(target) as new:
            (new / "new").touch()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["larger-disk", "out"]
        assert [path.name for path in target.iterdir()] == ["new"]
        assert [path.name for path in elsewhere.iterdir()] == ["old"]


def test_the_old_folder_is_restored_if_the_new_one_cannot_be_renamed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), replacing_folder(target) as new:
        new.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_killed_process_leaves_no_partial_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    code = f"""
import time, pathlib
from cyclegan.system.files import replacing_folder
with replacing_folder(pathlib.Path({str(target)!r})) as new:
    (new / "half").touch()
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    with replacing_folder(target) as new:
        assert list(new.iterdir()) == []
        (new / "complete").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

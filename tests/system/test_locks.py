"""Lock files."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cyclegan.system.errors import UserError
from cyclegan.system.locks import claimed, held, is_held, only_process


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Simulate a file system without locks."""

    def flock(_file: object, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(monkeypatch, number)
    with (
        pytest.raises(
            UserError, match=r"/lock: lies on a file system without locks \(.*; mount it with locks.*or move"
        ),
        held(tmp_path / "lock"),
    ):
        pass


def test_other_errors_of_the_system_are_raised_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / "lock"):
        pass


def test_a_lock_is_held_as_long_as_its_holder_keeps_it_and_stays_on_disk(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert not lock.exists(), "is_held creates no lock file"
    with held(lock):
        assert is_held(lock)
        with (
            pytest.raises(UserError, match=rf"{lock}: is held by another process for over 0.1 s.*end"),
            claimed(lock, 0.1),
        ):
            pass
    assert not is_held(lock)
    assert lock.exists(), "its modification time shows when a killed process was last alive"
    with claimed(lock, 0.1):
        assert is_held(lock)


def test_only_one_process_trains_a_run(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from cyclegan.system.locks import only_process\n"
        "with only_process(Path(sys.argv[1]), 'trains this run'): print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "run" / "lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_held(lock)
        with (
            pytest.raises(UserError, match=f"process {other.pid} trains this run"),
            only_process(lock, "trains this run", wait=0.3),
        ):
            pass
        other.kill()
    with only_process(lock, "trains this run"):
        assert lock.read_text() == str(os.getpid())
    assert not is_held(lock)

"""Lock files."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cyclegan.system.errors import UserError
from cyclegan.system.locks import held


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No file system without locks is at hand."""

    def flock(_file: object, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(monkeypatch, number)
    with (
        pytest.raises(UserError, match=r"/lock lies on a file system without locks \(.*mount it with locks.*or move"),
        held(tmp_path / "lock"),
    ):
        pass


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / "lock"):
        pass

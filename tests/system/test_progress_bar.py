from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from cyclegan.system.progress_bar import progress_bar

CODE = """
from cyclegan.system.progress_bar import progress_bar
with progress_bar("measuring", 4, "image") as bar:
    bar.update(3)
"""


def test_one_line_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("measuring", 4, "image") as bar:
        bar.update(4)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("measuring: 4 images\n", "")


def test_a_terminal_shows_a_bar() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    done = subprocess.run([sys.executable, "-c", CODE], stderr=theirs, stdout=subprocess.PIPE, text=True, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.stdout == ""
    assert "measuring" in shown
    assert "75%" in shown
    assert "3/4" in shown

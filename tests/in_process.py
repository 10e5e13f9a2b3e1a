"""Commands in the tests' own process."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path
from typing import Any

from cyclegan.cli import main


def cyclegan_here(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported TensorFlow already: an import takes four seconds."""
    given = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(given)
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())

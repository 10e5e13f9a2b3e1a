"""A project with a fault, the check that a command refuses it, and commands in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan.cli import main
from refusals import project, refuses, shared_store, template

__all__ = ["project", "refuses", "shared_store", "template"]


@pytest.fixture
def cyclegan(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command and returns its standard output or, if it must fail, its standard error."""

    def run(*arguments: object, code: int = 0) -> str:
        try:
            main([str(argument) for argument in arguments])
            ended: object = 0
        except SystemExit as end:
            ended = end.code
        printed = capsys.readouterr()
        assert ended == code, printed.err
        return printed.err if code else printed.out

    return run


@pytest.fixture
def few_timed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let init and doctor time a few steps instead of ten seconds for each network: no test looks at the times."""
    monkeypatch.setattr("cyclegan.advice.timing.WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr("cyclegan.advice.proposal.TIMED_SECONDS", 0.0)

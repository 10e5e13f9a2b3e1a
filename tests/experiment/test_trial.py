"""Which error fails a trial, and what it reports to its worker; `tests/pipeline/test_search.py` runs real ones."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from pathlib import Path

import pytest

from cyclegan.evaluation.features import load_features
from cyclegan.experiment.session import Session
from cyclegan.experiment.trial import (
    TrialReporter,
    WorkerMessages,
    _train,
    fail_trial_on_error,
    give_back_on_error,
    only_validation,
)
from cyclegan.system.errors import UserError
from cyclegan.tracking.run import TrackedRun
from cyclegan.training.checkpoint import CheckpointFolder
from tiny import packed, tiny

FULL = OSError(errno.ENOSPC, "No space left on device", "/data")


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("the training diverged"), 2), (FULL, os.EX_TEMPFAIL), (MemoryError(), None)]
)
def test_within_a_training_only_a_system_fault_gives_the_trial_back(error: Exception, code: int | None) -> None:
    with pytest.raises((UserError, MemoryError)) as caught, give_back_on_error(), fail_trial_on_error():
        raise error
    assert getattr(caught.value, "exit_code", None) == code


def test_around_a_training_a_user_error_gives_the_trial_back() -> None:
    with pytest.raises(UserError, match="MLflow is unavailable") as caught, give_back_on_error():
        raise UserError("MLflow is unavailable")
    assert caught.value.exit_code == os.EX_TEMPFAIL


class TrialOutput(io.StringIO):
    """A trial's messages to its worker. SIGTERM stops the trial after `stop_after` reports."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after = stop_after

    def write(self, text: str) -> int:
        written = super().write(text)
        if len(self.metrics) == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return written

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [message["metrics"] for message in map(json.loads, self.getvalue().splitlines()) if "metrics" in message]


@pytest.mark.slow
def test_a_resumed_trial_reports_each_evaluation_once(tmp_path: Path) -> None:
    """With retries, the training holds the latest evaluation back. Its checkpoint holds this evaluation too."""
    train = {"lr_policy": "constant", "epochs": 4, "steps_per_epoch": 1, "evaluate_every": 1, "log_every": 1}
    params = tiny(train=train | {"on_divergence": {"retries": 1, "factor": 0.5}})
    dataset = packed(tmp_path, params, paired=False)
    features = load_features(Path(__file__).parents[2] / "data/features/efficientnet-lite0.npz", 32)

    def attempt(output: TrialOutput) -> Session:
        session = Session.prepare(params, dataset, CheckpointFolder(tmp_path / "work", keep=1), features)
        # Never closed: the worker lives.
        reading, writing = os.pipe()
        os.write(writing, b'{"continue": true}\n' * 9)
        messages = WorkerMessages(os.fdopen(reading, "rb"))
        with TrackedRun.offline(tmp_path / "waiting", experiment="e", name="n", params={}) as tracked:
            _train(session, tracked, TrialReporter(tracked, messages, output))
        return session

    first, second = TrialOutput(stop_after=2), TrialOutput()
    with pytest.raises(SystemExit):
        attempt(first)
    assert len(first.metrics) == 2
    rows = [only_validation(row) for row in attempt(second).progress.validation]
    assert len(rows) == 4
    assert second.metrics == rows

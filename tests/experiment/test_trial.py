"""What a trial's failure is put down to, and what its worker hears; `tests/pipeline/test_search.py` runs real ones."""

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
from cyclegan.experiment.trial import Answers, Telling, _train, measured, of_the_setting, of_the_surroundings
from cyclegan.system.errors import UserError
from cyclegan.tracking.run import TrackedRun
from cyclegan.training.checkpoint import CheckpointFolder
from tiny import packed, tiny

FULL = OSError(errno.ENOSPC, "No space left on device", "/data")


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("the training diverged"), 2), (FULL, os.EX_TEMPFAIL), (MemoryError(), None)]
)
def test_only_the_system_is_to_blame_within_a_training(error: Exception, code: int | None) -> None:
    with pytest.raises((UserError, MemoryError)) as caught, of_the_surroundings(), of_the_setting():
        raise error
    assert getattr(caught.value, "exit_code", None) == code


def test_around_a_training_it_is_what_a_user_can_mend() -> None:
    with pytest.raises(UserError, match="MLflow is away") as caught, of_the_surroundings():
        raise UserError("MLflow is away")
    assert caught.value.exit_code == os.EX_TEMPFAIL


class Told(io.StringIO):
    """What a trial tells its worker, and a signal that asks it to stop when it has told of so many evaluations."""

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
        return [message["figures"] for message in map(json.loads, self.getvalue().splitlines()) if "figures" in message]


@pytest.mark.slow
def test_each_evaluation_is_told_once_by_the_attempt_that_goes_on(tmp_path: Path) -> None:
    """With retries the training holds the last one back, and what it holds back is in its checkpoints, too."""
    train = {"lr_policy": "constant", "epochs": 4, "steps_per_epoch": 1, "evaluate_every": 1, "log_every": 1}
    params = tiny(train=train | {"on_divergence": {"retries": 1, "factor": 0.5}})
    dataset = packed(tmp_path, params, paired=False)
    features = load_features(Path(__file__).parents[2] / "data/features/efficientnet-lite0.npz", 32)

    def attempt(told: Told) -> Session:
        session = Session.prepare(params, dataset, CheckpointFolder(tmp_path / "work", keep=1), features)
        # Never closed: the worker lives.
        reading, writing = os.pipe()
        os.write(writing, b'{"continue": true}\n' * 9)
        answers = Answers(os.fdopen(reading, "rb"))
        with TrackedRun.offline(tmp_path / "waiting", experiment="e", name="n", params={}) as tracked:
            _train(session, tracked, Telling(tracked, answers, told))
        return session

    first, second = Told(stop_after=2), Told()
    with pytest.raises(SystemExit):
        attempt(first)
    assert len(first.metrics) == 2
    rows = [measured(row) for row in attempt(second).progress.validation]
    assert len(rows) == 4
    assert second.metrics == rows

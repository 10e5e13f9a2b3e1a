"""What a trial's failure is put down to; `tests/pipeline/test_search.py` runs real ones."""

from __future__ import annotations

import errno
import os

import pytest

from cyclegan.errors import UserError
from cyclegan.stages.trial import of_the_setting, of_the_surroundings

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

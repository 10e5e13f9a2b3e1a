"""Arguments that a command does not have."""

from __future__ import annotations

import pytest

from refusals import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("trian",), "argument COMMAND: invalid choice: 'trian'"),
        (("train", "--fast"), "unrecognized arguments: --fast"),
        (("preset",), "the following arguments are required: NAME"),
        (("translate", "x.keras", "a.png"), "the following arguments are required: --output/-o"),
    ],
)
def test_wrong_arguments_print_the_usage(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capfd, *arguments)
    assert code == 2
    assert err.startswith("usage: cyclegan")
    assert message in err.splitlines()[-1]

"""`cyclegan doctor`: one line for each check, and exit code 1 for what would fail."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from refusals import Spoil, all_of, nothing, remove, replace_text, run, set_params, split_done

pytestmark = pytest.mark.usefixtures("few_timed_steps")
NAMES = ("versions", "params.yaml", "device", "XLA", "bfloat16", "images", "steps", "memory", "disk", "MLflow", "DVC")


def doctor(capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and for each check its state and text."""
    code, out, _ = run(capfd, "doctor")
    # One screen.
    assert len(out.splitlines()) < 24
    lines = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith(("ok", "FAIL"))]
    return code, {name: (state, text) for state, name, text in lines}


@pytest.fixture
def dvc(project: Path) -> None:
    subprocess.run(("git", "init", "--quiet"), cwd=project, check=True)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").touch()


@pytest.mark.usefixtures("dvc")
@pytest.mark.parametrize(
    ("spoil", "timed_on"),
    [
        pytest.param(nothing, "on noise", marks=pytest.mark.slow),
        (split_done, "steps take"),
        pytest.param(
            all_of(split_done, set_params(data={"channels_A": 1, "channels_B": 1})), "on noise", marks=pytest.mark.slow
        ),
    ],
    ids=["before split", "after split", "after another split"],
)
def test_a_machine_that_works(project: Path, capfd: pytest.CaptureFixture[str], spoil: Spoil, timed_on: str) -> None:
    spoil(project)
    code, found = doctor(capfd)
    assert (code, tuple(found)) == (0, NAMES)
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["steps"][1].startswith("20 of ")
    assert timed_on in found["steps"][1]
    assert "differs from float32 by" in found["bfloat16"][1]
    assert "mlflow.db" in found["MLflow"][1]
    assert "6 stages" in found["DVC"][1]


BROKEN: dict[str, tuple[Spoil, str, Sequence[str]]] = {
    "params": (replace_text("epochs: 1\n", "epochs: 0\n"), "params.yaml", ["train.epochs = 0"]),
    "folder": (remove("a"), "images", ["data.folder_A", "does not exist"]),
    "crop": (
        all_of(split_done, set_params(data={"load_size": "original"}, train={"crop_size": 32})),
        "steps",
        ["train.crop_size", "[32, 32]", "larger than", "lower it"],
    ),
    "store": (set_params(tracking={"uri": "sqlite:////proc/none/mlflow.db"}), "MLflow", ["/proc/none"]),
    "dvc": (remove(".dvc"), "DVC", ["dvc stage list fails"]),
}


@pytest.mark.usefixtures("dvc")
@pytest.mark.parametrize("name", ["params", *(pytest.param(name, marks=pytest.mark.slow) for name in list(BROKEN)[1:])])
def test_what_would_fail(project: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    spoil, check, facts = BROKEN[name]
    spoil(project)
    code, found = doctor(capfd)
    assert code == 1
    assert [other for other, (state, _) in found.items() if state == "FAIL"] == [check]
    assert [fact for fact in facts if fact not in found[check][1]] == []


@pytest.mark.usefixtures("dvc")
def test_a_loss_that_is_not_finite(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(train={"learning_rate": 1e30})(project)
    code, found = doctor(capfd)
    assert (code, found["steps"][0]) == (1, "FAIL")
    assert "lower train.learning_rate" in found["steps"][1]

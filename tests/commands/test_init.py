"""`cyclegan init`: from two folders or an archive to a params.yaml, in this process."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan.params import Params, load
from refusals import run, snapshot

pytestmark = pytest.mark.usefixtures("few_timed_steps")


@pytest.fixture
def git(project: Path) -> None:
    """All of the project in one commit."""
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        ("-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", "start"),
    ):
        subprocess.run(("git", *command), cwd=project, check=True)


def init(capfd: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[Params, str]:
    """Run the command; the parameters, and what was printed."""
    before = snapshot(root)
    code, out, err = run(capfd, "init", *arguments)
    assert code == 0, err
    after = snapshot(root)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed - {"reports"} == {"params.yaml", "reports/data.png"}
    return load(root / "params.yaml"), out


@pytest.mark.usefixtures("git")
def test_two_folders(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    params, out = init(capfd, project, "a", "b", "--epochs", "2", "--name", "mine")
    data, train = params.data, params.train
    assert (data.source, data.folder_A, data.folder_B, data.name) == ("folders", "a", "b", "mine")
    # 20×16 pixels, twelve images each.
    assert (data.load_size, train.crop_size, params.model.generator) == ((16, 16), (16, 16), "unet_full")
    assert (train.epochs, train.select, train.diff_augment) == (2, "last", ["color", "translation", "cutout"])
    assert "A: 12 images, 20×16 pixels, 12 RGB, 8 bits" in out
    assert "model.base_filters = 32" in out
    assert "expected: dvc repro takes" in out
    with Image.open(project / "reports" / "data.png") as sheet:
        assert np.asarray(sheet).shape[2] == 3
    # Every value that is not a default has its reason in the output.
    defaults = dict(Params().model.model_dump())
    other = [key for key, value in params.model.model_dump().items() if value != defaults[key]]
    assert all(f"model.{key} = " in out for key in other)


@pytest.mark.slow
def test_from_outside_the_project(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = project.parent / "A", project.parent / "B"
    (project / "a").rename(a)
    (project / "b").rename(b)
    params, _ = init(capfd, project, str(a), str(b), "--minutes", "30", "--yes", "--size", "16")
    assert (params.data.folder_A, params.data.folder_B) == (str(a), str(b))
    assert params.train.crop_size == (16, 16)
    assert params.train.epochs * 10 > 30


@pytest.mark.slow
def test_an_archive(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(project / "my set.zip", "w") as archive:
        for domain in "ab":
            for file in (project / domain).iterdir():
                archive.write(file, f"set/train{domain.upper()}/{file.name}")
    params, _ = init(capfd, project, "my set.zip", "--epochs", "1", "--yes")
    assert (params.data.source, params.data.dataset) == ("file:my%20set.zip", "my-set")
    code, _, err = run(capfd, "fetch")
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.usefixtures("git")
def test_a_changed_file_is_overwritten_when_the_user_agrees(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text() + "# mine\n")
    before = snapshot(project)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    code, out, _ = run(capfd, "init", "a", "b")
    assert (code, out) == (1, "nothing was changed\n")
    assert snapshot(project) == before
    monkeypatch.setattr("builtins.input", lambda _: "y")
    init(capfd, project, "a", "b", "--epochs", "1")
    assert "# mine" not in file.read_text()

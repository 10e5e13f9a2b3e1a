"""A small project, ways to break it, and a check that a command refuses it with one message and no changes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from ruamel.yaml import YAML

from cyclegan import build_generator, cli
from cyclegan.params import read

ROOT = Path(__file__).parents[1]
SPACE = read(ROOT / "params.yaml")["search"]["space"]
SMALL = {
    "data": {"source": "folders", "folder_A": "a", "folder_B": "b", "load_size": 16},
    "model": {"generator": "resnet", "base_filters": 4, "blocks": 1, "patch_layers": 1, "discriminator_filters": 4},
    "train": {"epochs": 1, "steps_per_epoch": 2, "crop_size": 16, "log_every": 2, "pool_size": 2},
}
# The files of a trained project, with a run that is in no store.
RUN = {
    **dict.fromkeys(("experiment", "dataset"), "a2b"),
    **{"run_id": "0" * 32, "run_key": "0" * 16, "data_md5": "0" * 32},
    **{"steps": 2, "epochs": 1, "seconds": 1.0, "device": "CPU", "adversarial_loss": "least_squares"},
    "kept": {"select": "last", "step": 2, "epoch": 1.0, "value": None},
}
# Facts that several messages share.
ENDINGS = ".bmp/.gif/.jfif/.jpe/.jpeg/.jpg/.png/.tif/.tiff/.webp"
LAYOUTS = ("trainA and trainB", "valA, valB, testA, testB", "A and B")
NETWORK = "data/features/efficientnet-lite0.npz"

Spoil = Callable[[Path], object]
"""Takes the project's folder and breaks something in it."""
Facts = Sequence[str | int]
"""The facts of a message: the key or file, the value, and the remedy's key or command. A number is a whole word."""


# The project.


def image(seed: int, width: int = 20, height: int = 16, form: str = "PNG", mode: str = "RGB") -> bytes:
    """A small image of random blocks, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).convert(mode).save(out, form)
    return out.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


FIVE_CHANNELS = tiff(np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two folders of twelve images each, and the same images in data/raw."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "presets", root / "presets")
    set_params(**SMALL)(root)
    for number, (folder, raw) in enumerate((("a", "trainA"), ("b", "trainB"))):
        (root / folder).mkdir()
        for n in range(12):
            (root / folder / f"{n}.png").write_bytes(image(100 * number + n))
        shutil.copytree(root / folder, root / "data" / "raw" / raw)
    (root / "data" / "features").symlink_to(ROOT / "data" / "features")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(template, root, symlinks=True)
    (tmp_path / "template").symlink_to(template.parent)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def shared_store(project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share one MLflow store among projects: creating its tables takes most of the time of a refused command."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.getbasetemp()}/store/mlflow.db")


def snapshot(root: Path) -> dict[str, str]:
    """Every file, folder and link with its content."""
    found = {}
    for path in root.rglob("*"):
        kind = path.lstat().st_mode
        name = path.relative_to(root).as_posix()
        # The store is created on first use, and holds no output.
        if name.split("/")[0] in ("mlruns", "checkpoints"):
            continue
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[name] = f"{kind} {hashlib.sha256(content).hexdigest()}"
    return found


# Ways to break it.


def nothing(_root: Path) -> None:
    """Break nothing: the command itself is wrong."""


def edit_params(change: Callable[[Any], object]) -> Spoil:
    def spoil(root: Path) -> None:
        yaml, file = YAML(), root / "params.yaml"
        tree = yaml.load(file)
        change(tree)
        yaml.dump(tree, file)

    return spoil


def set_params(**sections: dict[str, Any]) -> Spoil:
    return edit_params(lambda tree: [tree[section].update(values) for section, values in sections.items()])


def replace_text(old: str, new: str) -> Spoil:
    """Replace text of params.yaml."""

    def spoil(root: Path) -> None:
        file = root / "params.yaml"
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new, 1))

    return spoil


def put(name: str, content: str | bytes) -> Spoil:
    raw = content.encode() if isinstance(content, str) else content

    def spoil(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)

    return spoil


def make_folder(name: str) -> Spoil:
    return lambda root: (root / name).mkdir(parents=True)


def remove(*names: str) -> Spoil:
    def spoil(root: Path) -> None:
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return spoil


def empty(name: str, keep: int = 0) -> Spoil:
    """Remove a folder's files but the first."""

    def spoil(root: Path) -> None:
        for path in sorted((root / name).iterdir())[keep:]:
            path.unlink()

    return spoil


def cut(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])

    return spoil


def link(name: str, target: str) -> Spoil:
    return lambda root: (root / name).symlink_to(target)


def all_of(*spoils: Spoil) -> Spoil:
    def spoil(root: Path) -> None:
        for one in spoils:
            one(root)

    return spoil


def split_done(root: Path) -> None:
    """Add the outputs of stage split, which are made once."""
    made = root.with_name("template") / "split"
    if not made.exists():
        shutil.copytree(made.with_name("project"), made, symlinks=True)
        with contextlib.chdir(made):
            cli.main(["split"])
    shutil.copytree(made / "data/split", root / "data/split")


def trained(root: Path) -> None:
    """Add the outputs of stage train, which are made once."""
    made = root.with_name("template") / "generator.keras"
    if not made.exists():
        build_generator(3, base_filters=4, blocks=1).save(made)
    (root / "models").mkdir()
    for direction in ("AtoB", "BtoA"):
        shutil.copy(made, root / f"models/generator_{direction}.keras")
    put("reports/train/run.json", json.dumps(RUN))(root)
    for name in ("losses", "validation"):
        put(f"reports/train/{name}.csv", "step,epoch\n2,1\n")(root)


# The check.


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, standard output and error."""
    capfd.readouterr()
    code: Any = 0
    try:
        cli.main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capfd.readouterr()
    return code, out, err


def holds(message: str, fact: str | int) -> bool:
    if isinstance(fact, int):
        return re.search(rf"(?<![\w.]){fact}(?!\w|\.\d)", message) is not None
    return fact in message


@pytest.fixture
def refuses(project: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Check that a command refuses the broken project: exit code 2, one message with these facts, no changes.

    In the facts, {root} stands for the project's folder.
    """

    def check(command: str, spoil: Spoil, facts: Facts, own_process: bool = False) -> None:
        spoil(project)
        before = snapshot(project)
        arguments = command.split(" ")
        if own_process:
            done = subprocess.run(
                [sys.executable, "-m", "cyclegan", *arguments], capture_output=True, text=True, check=False
            )
            code, out, err = done.returncode, done.stdout, done.stderr
            assert out == ""
        else:
            code, _, err = run(capfd, *arguments)
        # RUN is in no store, which gives a warning.
        lines = [line for line in err.splitlines() if f"MLflow run {RUN['run_id']}" not in line]
        assert code == 2, err
        assert lines[0].startswith("cyclegan: "), err
        # A list of images follows some messages.
        assert all(line.startswith("  ") for line in lines[1:]), err
        message = "\n".join(lines).replace(str(project), "{root}")
        assert [fact for fact in facts if not holds(message, fact)] == [], message
        # The password of all addresses in these cases.
        assert "secret" not in message
        assert snapshot(project) == before

    return check

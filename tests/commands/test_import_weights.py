"""`cyclegan import …`, as a person types it."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cyclegan.cli import main
from cyclegan.models.generator import build_generator
from cyclegan.models.translator import load_generator
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.measurements import Measured
from cyclegan.registry.versions import Candidate, register
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import open_store

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PYTORCH = FIXTURES / "pytorch"
GENERATOR = PYTORCH / "resnet2_instance.pth"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project's folder, as the working directory."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path


def test_a_generator_of_pytorch_becomes_a_keras_file(cyclegan: Callable[..., str], project: Path) -> None:
    printed = cyclegan("import", GENERATOR, "--output", "G.keras")
    assert printed.startswith("G.keras: generator, 51,363 parameters (architecture resnet, ")
    assert "blocks 2, dropout 0.0, halving centered, norm instance)" in printed
    assert "next: cyclegan translate G.keras IMAGE --output FOLDER" in printed
    with np.load(PYTORCH / "io.npz") as recorded:
        image, expected = recorded["in/b_48x40"], recorded["out/resnet2_instance/b_48x40"]
    assert np.abs(load_generator(project / "G.keras")(image) - expected).max() < 1e-5
    Image.fromarray(np.rint((image[0] + 1) * 127.5).astype(np.uint8)).save("image.png")
    cyclegan("translate", "G.keras", "image.png", "--output", "out")
    translated = np.asarray(Image.open(project / "out" / "image.png")).astype(float)
    # The image was rounded to 8 bits on the way in and out.
    assert np.abs(translated - (expected[0] + 1) * 127.5).mean() < 2


def test_an_import_of_a_discriminator_prints_its_domain(cyclegan: Callable[..., str], project: Path) -> None:
    printed = cyclegan("import", PYTORCH / "patch3_batch.pth", "--output", "D.keras")
    assert printed.startswith("D.keras: discriminator, 11,685 parameters (architecture patch, ")
    assert "the reference's D_A judges images of B, and its D_B images of A; here D_A judges A" in printed
    assert keras.saving.load_model(project / "D.keras").output_shape == (None, None, None, 1)


def test_the_old_name_still_works(cyclegan: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(FIXTURES / "parity" / "generator_keras_contrib.h5", "old.h5")
    main(["import-legacy", "old.h5", "--output", "a.keras"])
    printed = capsys.readouterr()
    assert printed.err == "cyclegan: import-legacy is deprecated: use 'cyclegan import'\n"
    assert cyclegan("import", "old.h5", "--output", "b.keras") == printed.out.replace("a.keras", "b.keras")
    assert "b.keras: generator, 69,801 parameters\n" in printed.out.replace("a.keras", "b.keras")


@pytest.mark.parametrize("name", ["hostile", "hostile_legacy"])
def test_a_hostile_file_runs_no_code_and_writes_no_file(name: str, cyclegan: Callable[..., str], project: Path) -> None:
    before = sorted(project.iterdir())
    (line,) = cyclegan("import", PYTORCH / f"{name}.pth", "--output", "x.keras", code=2).splitlines()
    assert f"{name}.pth: names 'io.open', unlike a state dict" in line
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((GENERATOR, "--output", "x.h5"), "--output x.h5: must end in .keras"),
        ((GENERATOR, "--output", "mine.keras"), "--output mine.keras: exists; name a new file"),
        (("none.pth", "--output", "x.keras"), "none.pth: no such file; name a file that torch.save"),
        (("none.h5", "--output", "x.keras"), "none.h5: no such file; expected a generator that Keras 2 saved"),
        (("params.yaml", "--output", "x.keras"), "params.yaml: the ending must be one of .h5 (Keras 2 with keras-"),
        ((PYTORCH / "wrapped.pth", "--output", "x.keras"), "torch.save(loaded['state_dict'], FILE)"),
        (
            (PYTORCH / "pixel_batch.pth", "--output", "x.keras", "--register", "x"),
            "pixel_batch.pth is a discriminator; register a generator",
        ),
        ((GENERATOR, "--output", "x.keras", "--register", "a/b"), "--register 'a/b': MLflow names must not be empty"),
        ((GENERATOR, "--output", "x.keras", "--register", ""), "--register '': MLflow names must not be empty"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_and_write_nothing(
    cyclegan: Callable[..., str], project: Path, arguments: tuple[object, ...], reason: str
) -> None:
    (project / "mine.keras").write_text("mine")
    before = sorted(project.iterdir())
    (line,) = cyclegan("import", *arguments, code=2).splitlines()
    assert reason in line
    assert sorted(project.iterdir()) == before


def test_offline_there_is_no_registry(cyclegan: Callable[..., str], project: Path) -> None:
    text = (project / "params.yaml").read_text().replace("offline: false", "offline: true")
    (project / "params.yaml").write_text(text)
    assert "set tracking.offline: false" in cyclegan(
        "import", GENERATOR, "--output", "x.keras", "--register", "x", code=2
    )
    assert not (project / "x.keras").exists()


def test_a_registered_import_has_an_origin_and_no_metrics(cyclegan: Callable[..., str], project: Path) -> None:
    """The registry's commands, the gate and `translate` take it as it is."""
    name = "horse2zebra-AtoB"
    printed = cyclegan("import", GENERATOR, "--output", "G.keras", "--register", name)
    assert f"models:/{name}/1: without test metrics" in printed
    again = cyclegan("import", GENERATOR, "--output", "G2.keras", "--register", name)
    assert f"models:/{name}/1 (was already registered)" in again

    store = open_store(Project(project, project), load(project / "params.yaml").tracking)
    version = store.client.get_model_version(name, "1")
    assert version.tags["origin.file"] == "resnet2_instance.pth"
    assert version.tags["origin.sha256"] == "b7e77cd614952c3eb8bf9f6982b4dc2a7d8f8f49775b18f5fecca89e3297ad55"
    assert version.tags["origin.program"] == "PyTorch"
    assert version.tags["origin.sha256"] in version.description
    assert name in cyclegan("registry", "list")
    assert "imported from resnet2_instance.pth: no test metrics" in cyclegan("registry", "show", name)
    assert "origin.sha256 = b7e77cd6" in cyclegan("registry", "show", f"{name}/1")

    assert "has no evaluation on record" in cyclegan("registry", "promote", name, "1", "--yes")
    assert cyclegan("registry", "list").splitlines()[1].split()[:4] == [name, "1", "1", "–"]
    Image.new("RGB", (32, 32), "red").save("image.png")
    cyclegan("translate", f"models:/{name}@champion", "image.png", "--output", "registered")
    cyclegan("translate", "G.keras", "image.png", "--output", "file")
    registered, file = (np.asarray(Image.open(project / folder / "image.png")) for folder in ("registered", "file"))
    np.testing.assert_array_equal(registered, file)

    # A trained version neither replaces it nor fails.
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["x", "y"], "scored": True, "pair_psnr": [20, 21]})
    measured = Measured({"pair_psnr": 20.5}, {"pair_psnr": 19.0}, {"version": 1, "split": "test", "md5": "aa"}, table)
    with TrackedRun.start(store, experiment="horse2zebra", name="training", params={}) as run:
        pass
    build_generator(base_filters=2, blocks=0).save(project / "trained.keras")
    candidate = Candidate("AtoB", project / "trained.keras", 3, 3, measured, "pair_psnr")
    (trained,) = register(store, run.id, "horse2zebra", [candidate], tags={})
    assert (trained.version, trained.champion) == ("2", "1")
    assert "version 1, has no evaluation on record" in trained.decision.reason
    assert "horse2zebra-AtoB  2         1" in cyclegan("registry", "list")
    assert "models:/horse2zebra-AtoB@champion is version 2" in cyclegan("registry", "promote", name, "2", "--yes")
    assert "models:/horse2zebra-AtoB@champion is version 1" in cyclegan("registry", "rollback", name, "--yes")

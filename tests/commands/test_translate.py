"""Options of `cyclegan translate`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image

from cyclegan.cli import main
from cyclegan.commands.training_scale import ScaleNote
from cyclegan.inference import strips
from cyclegan.models.generator import build_generator

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]


def negative(channels: int = 3) -> keras.Model:
    """A generator that inverts its input."""
    image = keras.Input((None, None, channels))
    layer = keras.layers.Conv2D(channels, 1, use_bias=False)
    model = keras.Model(image, layer(image))
    layer.set_weights([-np.eye(channels, dtype=np.float32)[None, None]])
    return model


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a generator and two images, as the working directory."""
    monkeypatch.chdir(tmp_path)
    negative().save("G.keras")
    (tmp_path / "in").mkdir()
    for n in (1, 2):
        # Smooth, so that lossy formats change it little.
        rows, columns = np.mgrid[0:40, 0:48]
        pixels = np.stack([rows * 6, columns * 5, 100 * n + 0 * rows], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "in" / f"{n}.png")
    return tmp_path


def pixels_of(file: str) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


def test_resume_translates_only_what_is_missing(cyclegan: Run, project: Path) -> None:
    cyclegan("translate", "G.keras", "in", "-o", "out")
    Path("out/2.png").unlink()
    Path("out/1.png").write_bytes(b"kept")
    cyclegan("translate", "G.keras", "in", "-o", "out", "--resume")
    assert Path("out/1.png").read_bytes() == b"kept"
    assert np.array_equal(pixels_of("out/2.png"), 255 - pixels_of("in/2.png"))
    cyclegan("translate", "G.keras", "in", "-o", "out", "--resume", "--overwrite", code=2)


def test_resize_makes_the_shorter_side_that_long(cyclegan: Run, project: Path) -> None:
    cyclegan("translate", "G.keras", "in/1.png", "-o", "out", "--resize", "20")
    assert pixels_of("out/1.png").shape == (20, 24, 3)
    cyclegan("translate", "G.keras", "in/1.png", "-o", "out", "--resize", "0", code=2)


@pytest.mark.parametrize("ending", ["jpg", "webp", "tif", "png"])
def test_format_decides_the_kind_of_file(cyclegan: Run, project: Path, ending: str) -> None:
    cyclegan("translate", "G.keras", "in/1.png", "-o", "out", "--format", ending)
    with Image.open(f"out/1.{ending}") as image:
        assert image.format == {"jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "png": "PNG"}[ending]
        written = np.asarray(image.convert("RGB")).astype(int)
    expected = 255 - pixels_of("in/1.png")
    assert np.abs(written - expected).mean() < (3 if ending in ("jpg", "webp") else 0.01)


def test_a_gray_jpeg_and_a_deep_tiff(cyclegan: Run, project: Path) -> None:
    negative(1).save("gray.keras")
    cyclegan("translate", "gray.keras", "in/1.png", "-o", "out", "--format", "jpg")
    assert Image.open("out/1.jpg").mode == "L"
    cyclegan("translate", "G.keras", "in/1.png", "-o", "out", "--format", "tif", "--bit-depth", "16")
    assert tifffile.imread("out/1.tif").dtype == np.uint16


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (4, ["--format", "jpg"]),
        (3, ["--format", "jpg", "--bit-depth", "16"]),
        (3, ["--format", "webp", "--bit-depth", "16"]),
        (1, ["--format", "webp"]),
        (2, ["--format", "png"]),
    ],
)
def test_a_format_that_cannot_store_the_images_is_refused(
    cyclegan: Run, project: Path, model: int, options: list[str]
) -> None:
    negative(model).save("other.keras")
    (line,) = cyclegan("translate", "other.keras", "in/1.png", "-o", "out", *options, code=2).splitlines()
    assert f"--format {options[1]}: cannot store {model} channels" in line
    assert not Path("out").exists()


def test_tile_and_device(cyclegan: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_generator(base_filters=2, blocks=1, init_gain=0.3).save("resnet.keras")
    chosen = []
    whole = strips.translate
    monkeypatch.setattr(
        "cyclegan.inference.image_files.translate",
        lambda translator, images, tile: chosen.append(tile) or whole(translator, images, tile),
    )
    for tile in ("off", "auto", "4"):
        cyclegan("translate", "resnet.keras", "in/1.png", "-o", tile, "--tile", tile, "--device", "cpu")
    assert chosen == ["off", "auto", 4]
    assert np.array_equal(pixels_of("off/1.png"), pixels_of("auto/1.png"))
    assert np.abs(pixels_of("off/1.png") - pixels_of("4/1.png")).max() <= 1
    cyclegan("translate", "resnet.keras", "in/1.png", "-o", "out", "--tile", "0", code=2)
    if not tf.config.list_physical_devices("GPU"):
        assert "--device gpu: " in cyclegan("translate", "G.keras", "in", "-o", "out", "--device", "gpu", code=2)


def test_an_image_of_another_scale_is_reported_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The generators of a project were trained on images of 64 pixels."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    (project / "models").mkdir()
    shutil.copy("G.keras", "models/G.keras")
    large = Image.new("RGB", (200, 150))
    for name in ("in/3.png", "in/4.png"):
        large.save(name)
    main(["translate", "models/G.keras", "in", "-o", "out"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "in/3.png (200×150 pixels)" in line
    assert "2.3 times larger" in line
    assert line.endswith("--resize 64")
    # Neither after --resize, nor for a file whose training is unknown.
    main(["translate", "models/G.keras", "in", "-o", "small", "--resize", "64"])
    main(["translate", "G.keras", "in", "-o", "unknown"])
    assert capsys.readouterr().err == ""


def test_small_images_and_images_near_the_training_size(caplog: pytest.LogCaptureFixture) -> None:
    note = ScaleNote(64)
    for size in ((64, 64), (32, 200), (128, 300)):
        note(Path("near.png"), size)
    assert caplog.text == ""
    note(Path("icon.png"), (16, 40))
    assert "icon.png (40×16 pixels)" in caplog.text
    assert "4.0 times smaller" in caplog.text

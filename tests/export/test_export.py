"""An exported file answers as its generator does, in the runtime that it is for."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from cyclegan.cli import main
from cyclegan.export import exporter
from cyclegan.export.exporter import export, find_format
from cyclegan.export.formats import LITERT, ONNX, Format, load_litert, load_saved_model
from cyclegan.models.generator import build_generator
from cyclegan.models.translator import Translator, size_multiple
from cyclegan.system.digests import file_digest
from cyclegan.system.errors import UserError

UNET: dict[str, Any] = {"architecture": "unet", "depth": 3}
FULL: dict[str, Any] = {"architecture": "unet_full", "depth": 3}
KINDS: dict[str, dict[str, Any]] = {
    "resnet": {},
    "resnet same concat contrib": {"padding": "same", "skip": "concat", "norm": "instance_contrib"},
    "resnet resize none": {"upsample": "resize", "norm": "none"},
    "resnet antialias": {"upsample": "antialias"},
    "resnet batch dropout": {"norm": "batch", "dropout": 0.5},
    "resnet residual": {"residual_output": True},
    "resnet output norm": {"output_norm": True},
    "resnet centered": {"halving": "centered"},
    "resnet gray to color": {"channels_in": 1},
    "resnet four channels": {"channels_in": 4, "channels_out": 1},
    "unet": UNET,
    "unet resize": UNET | {"upsample": "resize"},
    "unet batch dropout": UNET | {"norm": "batch", "dropout": 0.5},
    "unet_full": FULL,
    "unet_full resize residual": FULL | {"upsample": "resize", "residual_output": True, "padding": "same"},
}
# One of each architecture, of each way to double the size, of each way to pad.
QUICK = ("resnet same concat contrib", "resnet antialias", "unet_full resize residual")
SIZES = ((1, 1, 2), (3, 9, 31), (1, 64, 33))


def every_kind(*quick: str) -> Any:
    marks = {name: () if name in quick else pytest.mark.slow for name in KINDS}
    return pytest.mark.parametrize("kind", [pytest.param(name, marks=marks[name], id=name) for name in KINDS])


def make(kind: str) -> keras.Model:
    """A generator whose biases and norms are not at their start."""
    generator = build_generator(**{"base_filters": 8, "blocks": 1, "init_gain": 0.1, "seed": 3} | KINDS[kind])
    random = np.random.default_rng(0)
    for variable in generator.variables:
        if len(variable.shape) == 1 and "variance" not in variable.name:
            variable.assign_add(0.1 * random.standard_normal(variable.shape))
    return generator


def stored(translator: Translator, size: tuple[int, int, int]) -> np.ndarray:
    top = np.iinfo(translator.dtype).max
    shape = (*size, translator.channels)
    return np.random.default_rng(1).integers(0, top, shape, translator.dtype, endpoint=True)


def onnx_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@every_kind(*QUICK)
def test_onnx_translates_images_of_any_size(kind: str, tmp_path: Path, within: Callable[..., None]) -> None:
    generator, path = make(kind), tmp_path / "out.onnx"
    export(generator, path, find_format(path), lineage={})
    session, translator = onnx_session(path), Translator(generator)
    for size in SIZES:
        images = stored(translator, size)
        (found,) = session.run(None, {"image": images})
        expected = translator.translate(images)
        assert found.dtype == np.uint8
        assert found.shape == expected.shape
        different = np.abs(found.astype(int) - expected)
        within("ONNX Runtime, images: gray levels", different.max(), 1)
        within("ONNX Runtime, images: share of values that round differently", (different > 0).mean(), 0.002)


@every_kind(*QUICK)
def test_litert_equals_the_network(kind: str, tmp_path: Path, within: Callable[..., None]) -> None:
    generator, path = make(kind), tmp_path / "out.tflite"
    export(generator, path, find_format(path), lineage={})
    run, translator, side = load_litert(path), Translator(generator), size_multiple(generator)
    for count, height, width in ((1, 4, 5), (2, 3, 2)):
        shape = (count, height * side, width * side, translator.channels)
        images = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
        within("LiteRT: largest difference", np.abs(run(images) - translator.translate_float(images)).max(), 1e-4)


@every_kind()
def test_saved_model_and_float_onnx_equal_the_network(kind: str, tmp_path: Path, within: Callable[..., None]) -> None:
    generator = make(kind)
    translator, side = Translator(generator, 16), size_multiple(generator)
    folder, path = tmp_path / "1", tmp_path / "out.onnx"
    export(generator, folder, find_format(folder), bit_depth=16, lineage={})
    export(generator, path, find_format(path), as_float=True, lineage={})
    run = load_saved_model(folder)
    for size in SIZES:
        images = stored(translator, size)
        different = np.abs(run(images).astype(int) - translator.translate(images))
        within("SavedModel, images of 16 bits: levels", different.max(), 2)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4 * side, 5 * side, translator.channels)).astype(np.float32)
    (found,) = onnx_session(path).run(None, {"image": images})
    within("ONNX Runtime, float: largest difference", np.abs(found - translator.translate_float(images)).max(), 1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator in a file."""
    file: Path = tmp_path_factory.mktemp("model") / "generator_AtoB.keras"
    make("resnet").save(file)
    return file


def test_command_writes_16_bits_and_metadata(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "out.onnx"
    main(["export", str(model), str(path), "--bit-depth", "16"])
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{path}: ONNX; largest difference from the generator: ")
    assert printed.out.endswith("(bound 33)\n")
    assert printed.err == ""
    session = onnx_session(path)
    facts = session.get_modelmeta()
    assert facts.producer_name == "cyclegan"
    found = facts.custom_metadata_map
    assert found["cyclegan.model.sha256"] == file_digest(model)
    assert found["cyclegan.input"] == "image [batch, height, width, 3], uint16 in 0..65535"
    assert found["Image.BitmapPixelFormat"] == "Rgb8"
    assert [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())] == [
        ("image", "tensor(uint16)", ["batch", "height", "width", 3]),
        ("translation", "tensor(uint16)", ["batch", "height", "width", 3]),
    ]
    images = stored(Translator(make("resnet"), 16), (1, 7, 5))
    different = session.run(None, {"image": images})[0].astype(int) - Translator(make("resnet"), 16).translate(images)
    assert np.abs(different).max() <= 2
    assert list(path.parent.iterdir()) == [path]


def test_half_the_size_with_metadata_inside(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    full, half = tmp_path / "full.tflite", tmp_path / "half.tflite"
    main(["export", str(model), str(full)])
    main(["export", str(model), str(half), "--half"])
    assert capfd.readouterr().err == ""
    assert half.stat().st_size < 0.65 * full.stat().st_size
    with zipfile.ZipFile(half) as archive:
        found = json.loads(archive.read("cyclegan.json"))
    assert found["cyclegan.size_multiple"] == "4"
    assert found["cyclegan.smallest_side"] == "8"
    assert found["cyclegan.output"] == "translation [batch, height, width, 3], float32 in -1..1"
    assert found["Image.NominalPixelRange"] == "Normalized_1_1"


def test_saved_model_has_the_signature_of_tensorflow_serving(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    main(["export", str(model), str(folder)])
    images = stored(Translator(make("resnet")), (2, 9, 14))
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    different = serve(image=tf.constant(images))["translation"].numpy().astype(int)
    assert np.abs(different - Translator(make("resnet")).translate(images)).max() <= 1
    found = json.loads((folder / "assets.extra" / "cyclegan.json").read_text())
    assert found["cyclegan.bit_depth"] == "8"


def test_generator_of_one_size(tmp_path: Path) -> None:
    image = keras.Input((16, 24, 3))
    fixed, path = keras.Model(image, make("resnet")(image)), tmp_path / "out.onnx"
    export(fixed, path, find_format(path), lineage={})
    session, translator = onnx_session(path), Translator(fixed)
    assert session.get_inputs()[0].shape == ["batch", 16, 24, 3]
    images = stored(translator, (2, 16, 24))
    assert np.abs(session.run(None, {"image": images})[0].astype(int) - translator.translate(images)).max() <= 1


REFUSED = {
    "wrong ending": ("out.pb", [], ("out.pb", ".pb", ".onnx")),
    "half of another format": ("out.onnx", ["--half"], ("out.onnx", "--half", ".tflite")),
    "existing file": ("mine.onnx", [], ("mine.onnx", "exists", "name a new one")),
    "existing folder": ("mine", [], ("mine", "exists", "name a new one")),
    "file in the place of a folder": ("mine.onnx/out.tflite", [], ("mine.onnx/out.tflite", "name another place")),
    "folder below a file": ("mine.onnx/1", [], ("mine.onnx/1", "name another place")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(
    case: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").write_text("mine")
    Path("mine").mkdir()
    output, options, facts = REFUSED[case]
    with pytest.raises(SystemExit) as end:
        main(["export", str(model), output, *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert [fact for fact in facts if fact not in line] == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "mine.onnx"]
    assert Path("mine.onnx").read_text() == "mine"


@pytest.mark.parametrize("module", ["tf2onnx", "onnx", "onnxruntime"])
def test_missing_extra(
    module: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as end:
        main(["export", str(model), str(tmp_path / "out.onnx")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert f"module {module} is not installed" in line
    assert "pip install 'cyclegan[export]'" in line


@pytest.mark.parametrize("name", ["out.tflite", "out"])
def test_file_that_differs_is_removed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "FLOAT32_BOUND", -1.0)
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{name}: differs from the generator by .* was removed; export to another"):
        export(make("resnet gray to color"), path, find_format(path), bit_depth=16, lineage={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", [ONNX, LITERT], ids=["ONNX", "LiteRT"])
def test_operation_that_a_format_does_not_have(file_format: Format, tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    foreign, path = keras.Model(image, keras.ops.erfinv(image)), tmp_path / "out"
    with pytest.raises(UserError, match=f"^{file_format.name}: cannot hold .*Erfinv.*; export a SavedModel"):
        export(foreign, path, file_format, lineage={})
    assert list(tmp_path.iterdir()) == []


def test_generator_that_diverged_is_refused(tmp_path: Path) -> None:
    generator, path = make("resnet"), tmp_path / "out.tflite"
    generator.variables[-1].assign(np.full(3, np.nan))
    with pytest.raises(UserError, match="not finite"):
        export(generator, path, find_format(path), lineage={})
    assert list(tmp_path.iterdir()) == []

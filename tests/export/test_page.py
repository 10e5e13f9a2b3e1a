"""The examples of docs/export.md run."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cyclegan.export.exporter import export, find_format
from cyclegan.models.generator import build_generator
from cyclegan.models.translator import Translator

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def example(section: str) -> Any:
    """The code of a section of the page."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return compile("\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)), section, "exec")


def test_onnx_runtime_litert_and_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = build_generator(base_filters=4, blocks=1, init_gain=0.2)
    for name in ("AtoB.onnx", "AtoB.tflite"):
        export(generator, Path(name), find_format(Path(name)), lineage={})
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    expected = Translator(generator).translate(pixels[None])[0].astype(int)

    exec(example("ONNX Runtime"), {})
    assert np.abs(np.asarray(Image.open("b.png")) - expected).max() <= 1

    # TensorFlow's copy of the package.
    package = ModuleType("ai_edge_litert.interpreter")
    package.Interpreter = tf.lite.Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", package)
    exec(example("LiteRT"), {})
    assert np.abs(np.asarray(Image.open("b.png")) - expected).max() <= 1

    server: dict[str, Any] = {"__name__": "app"}
    exec(example("A small container"), server)
    answer = server["translated"](Path("a.png").read_bytes())
    assert np.abs(np.asarray(Image.open(io.BytesIO(answer))) - expected).max() <= 1

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cyclegan.models import build_generator, draw, summary_text
from cyclegan.system.errors import UserError

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def test_summary_lists_layers_shapes_and_parameters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    generator = build_generator(skip="concat", padding="same", norm="instance_contrib", output_norm=True)
    text = summary_text(generator)
    assert 'Model: "generator"' in text
    assert "Total params: 35,276,553" in text
    assert "Non-trainable params: 0" in text
    for layer in generator.layers:
        assert f"│ {layer.name}" in text
    assert "Connected to" in text
    assert "block8_concat[0][0]" in text
    # Complete lines: the right border is there.
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert all(line.endswith("│") for line in rows)
    assert capsys.readouterr().out == ""


@needs_graphviz
def test_draw_writes_images(tmp_path: Path) -> None:
    generator = build_generator(base_filters=2, blocks=1)
    draw(generator, tmp_path / "new" / "generator.png")
    assert (tmp_path / "new" / "generator.png").read_bytes().startswith(b"\x89PNG")
    draw(generator, tmp_path / "generator.svg")
    svg = (tmp_path / "generator.svg").read_text()
    assert "<svg" in svg
    assert all(layer.name in svg for layer in generator.layers)


def test_draw_without_graphviz_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"generator\.png: cannot be drawn.*apt-get install graphviz"):
        draw(build_generator(base_filters=2, blocks=0), tmp_path / "generator.png")
    assert os.listdir(tmp_path) == []


def test_draw_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generator\.gif: .* \.png or \.svg"):
        draw(build_generator(base_filters=2, blocks=0), tmp_path / "generator.gif")

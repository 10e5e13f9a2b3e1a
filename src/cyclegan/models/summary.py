"""Summaries of a network, as text and as an image of its graph."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import keras

from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing


def summary_text(model: keras.Model) -> str:
    """Return the output of `model.summary()`: layers, output shapes, parameters and connections."""
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    return "\n".join(lines)


def draw(model: keras.Model, path: Path) -> None:
    """Draw the graph of layers with their shapes to a `.png` or `.svg` file.

    Raises:
        UserError: the file type is another one, or Graphviz or pydot is missing.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"{path}: cannot draw a network to this file type; use .png or .svg")
    with replacing(path) as temporary:
        # Without pydot or Graphviz plot_model raises ImportError; in a notebook it only prints a message.
        with suppress(ImportError):
            keras.utils.plot_model(model, temporary, show_shapes=True, show_layer_names=True)
        if temporary.stat().st_size == 0:
            raise UserError(
                f"{path}: cannot be drawn without pydot and Graphviz; install both "
                "(pip install pydot; apt-get install graphviz)"
            )

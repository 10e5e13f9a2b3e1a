"""The documents are correct: examples run, and the table of sources is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

from cyclegan.params import Params, flatten, read

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "docs" / "notes" / "parameter-sources.md").read_text(encoding="utf-8")


CHECKS = """
assert translated.dtype == np.uint8
assert translated.shape == photos.shape
assert len(history.history["G_AtoB/forward_cycle"]) == 2
# One step of rounding, because TensorFlow may optimize two graphs differently.
assert np.abs(same.astype(int) - translated).max() <= 1
assert restored.compiled
assert int(restored.step) == 32
real = np.zeros((2, 1, 64, 64, 3), np.float32)
for got, expected in zip(restored(tuple(real)), model(tuple(real)), strict=True):
    np.testing.assert_allclose(got, expected, atol=1e-6)
"""


def test_the_example_for_people_who_only_want_the_model(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    own = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_HOME", "KERAS_BACKEND")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment["KERAS_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", first + second + CHECKS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def rows() -> dict[str, list[str]]:
    """Key → the other cells of its row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in SOURCES.splitlines() if "|" in line]
    return {first.strip("`"): rest for first, *rest in cells if first.startswith("`")}


def test_every_key_is_in_the_table() -> None:
    tree = read(ROOT / "params.yaml")
    keys = [key for section in ("model", "train") for key, _ in flatten({section: tree[section]})]
    assert list(rows()) == keys


def test_every_named_value_is_in_the_table() -> None:
    """`plateau` and `cutout` are values that a key takes by name."""
    missing = [
        f"{section}.{key}: {value}"
        for section in ("model", "train")
        for key, field in Params.model_fields[section].annotation.model_fields.items()
        if f"{section}.{key}" in rows()
        for value in named_values(field.annotation)
        if f"`{value}`" not in rows()[f"{section}.{key}"][0]
    ]
    assert missing == []


def named_values(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [value for value in typing.get_args(annotation) if isinstance(value, str)]
    return [value for part in typing.get_args(annotation) for value in named_values(part)]


def test_named_values_are_found() -> None:
    found = {
        key: named_values(field.annotation)
        for key, field in Params.model_fields["train"].annotation.model_fields.items()
    }
    assert found["lr_policy"] == ["constant", "linear", "cosine", "step", "plateau"]
    assert found["diff_augment"] == ["color", "translation", "cutout"]
    assert found["jit_compile"] == ["auto"]
    assert found["epochs"] == []


def test_every_key_names_a_test() -> None:
    """`tests/test_style.py` checks for all pages that the named tests exist."""
    assert all(re.search(r"`tests/[\w/]+\.py::\w+`", cells[-1]) for cells in rows().values())

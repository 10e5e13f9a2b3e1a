"""Keras settings of other projects do not affect this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from cyclegan.system.errors import UserError
from cyclegan.system.keras_settings import choose_backend

ROOT = Path(__file__).parents[1]
SETTINGS = {"backend": "jax", "floatx": "float16", "epsilon": 0.001, "image_data_format": "channels_first"}
IN_A_NOTEBOOK = """
from cyclegan import build_generator
import keras
config = keras.config
print(config.backend(), config.floatx(), config.epsilon(), config.image_data_format(), config.max_steps_per_epoch())
print(build_generator(channels_out=1, base_filters=2, blocks=1).output_shape, keras.layers.ReLU().compute_dtype)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "keras.json").write_text(json.dumps(SETTINGS))
    own = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    return {**own, "KERAS_HOME": str(tmp_path)}


@pytest.mark.parametrize("variables", [{}, {"KERAS_BACKEND": "torch", "KERAS_MAX_STEPS_PER_EPOCH": "1"}])
def test_settings_of_other_projects_are_overridden(environment: dict[str, str], variables: dict[str, str]) -> None:
    command = [sys.executable, "-c", IN_A_NOTEBOOK]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "tensorflow float32 1e-07 channels_last None",
        "(None, None, None, 1) float32",
    ]
    (line,) = done.stderr.splitlines()
    changed = [
        "floatx float16 -> float32",
        "epsilon 0.001 -> 1e-07",
        "image_data_format channels_first -> channels_last",
    ]
    for text in (f"backend {variables.get('KERAS_BACKEND', 'jax')} -> tensorflow", *changed, environment["KERAS_HOME"]):
        assert text in line
    assert ("max_steps_per_epoch 1 -> None" in line) == bool(variables)


def test_the_command_line_overrides_them_too(environment: dict[str, str], tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "cyclegan", "summary"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "(None, None, None, 3)" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "backend jax -> tensorflow" in line


def test_keras_on_another_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UserError) as refused:
        choose_backend()
    assert str(refused.value).startswith("keras: runs on 'torch', cyclegan needs 'tensorflow'; restart Python")
    assert len(str(refused.value)) <= 160

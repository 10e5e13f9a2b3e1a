"""Pin the Keras settings that this package relies on, against environment variables and keras.json."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from cyclegan.system.errors import UserError

BACKEND = "tensorflow"
SETTINGS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    # A limit would end a training or an evaluation early.
    "max_epochs": None,
    "max_steps_per_epoch": None,
}

logger = logging.getLogger(__name__)

# Overridden settings that are not reported yet.
_overridden: list[str] = []


def choose_backend() -> None:
    """Choose the backend TensorFlow before Keras is imported.

    Raises:
        UserError: Keras has been imported with another backend.
    """
    if "keras" in sys.modules:
        backend = sys.modules["keras"].config.backend()
        if backend != BACKEND:
            raise UserError(
                f"keras: runs on {backend!r}, cyclegan needs {BACKEND!r}; restart Python, import cyclegan before keras"
            )
        return
    backend = os.environ.get("KERAS_BACKEND") or _backend_in_file()
    if backend != BACKEND:
        _overridden.append(f"backend {backend} -> {BACKEND}")
    os.environ["KERAS_BACKEND"] = BACKEND


def pin_settings() -> None:
    """Set all other settings that networks and metrics depend on. Warn of overridden ones in one line."""
    import keras

    for name, wanted in SETTINGS.items():
        found = getattr(keras.config, name)()
        if found != wanted:
            getattr(keras.config, f"set_{name}")(wanted)
            _overridden.append(f"{name} {found} -> {wanted}")
            if name == "floatx":
                # Layers take their dtype from a policy that Keras derives only once.
                keras.config.set_dtype_policy(wanted)
    if _overridden:
        logger.warning(
            "Keras settings from KERAS_* variables or %s are overridden: %s", _file(), ", ".join(_overridden)
        )
        _overridden.clear()


def _file() -> Path:
    return Path(os.environ.get("KERAS_HOME") or "~/.keras", "keras.json")


def _backend_in_file() -> str:
    try:
        return str(json.loads(_file().expanduser().read_bytes()).get("backend", BACKEND))
    except (OSError, ValueError, AttributeError):
        # Keras uses its defaults in this case, too.
        return BACKEND

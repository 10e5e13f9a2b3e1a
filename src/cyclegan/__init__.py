"""CycleGAN in Keras 3: unpaired image-to-image translation, tracked and reproducible.

To use the model alone::

    from cyclegan import CycleGAN, build_discriminator, build_generator

Names are loaded on first use, so that `import cyclegan` and the command line do not wait for TensorFlow. Import this
package before Keras and TensorFlow: it chooses Keras' backend and silences TensorFlow's start-up messages.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cyclegan.system.keras_settings import choose_backend

if TYPE_CHECKING:
    from cyclegan.models.composite import build_composite
    from cyclegan.models.discriminator import build_discriminator
    from cyclegan.models.generator import build_generator
    from cyclegan.models.translator import Translator, load_generator
    from cyclegan.training.cyclegan import CycleGAN
    from cyclegan.training.losses import LossWeights, Objective
    from cyclegan.training.schedule import DecaySchedule

try:
    __version__ = version("cyclegan")
except PackageNotFoundError:  # A registered model holds a copy of this package, which is not installed.
    __version__ = "unknown"

_HOMES = {
    "CycleGAN": "cyclegan.training.cyclegan",
    "DecaySchedule": "cyclegan.training.schedule",
    "LossWeights": "cyclegan.training.losses",
    "Objective": "cyclegan.training.losses",
    "Translator": "cyclegan.models.translator",
    "build_composite": "cyclegan.models.composite",
    "build_discriminator": "cyclegan.models.discriminator",
    "build_generator": "cyclegan.models.generator",
    "load_generator": "cyclegan.models.translator",
}

__all__ = [
    "CycleGAN",
    "DecaySchedule",
    "LossWeights",
    "Objective",
    "Translator",
    "__version__",
    "build_composite",
    "build_discriminator",
    "build_generator",
    "load_generator",
]


choose_backend()
# Hide TensorFlow's warnings, which name every missing library; its errors stay visible.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if "tensorflow" not in sys.modules:
            from cyclegan.system.quiet_tensorflow import import_tensorflow

            import_tensorflow()
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""The model that the registry serves: it translates images of integers to images of the same type.

MLflow copies this file beside the model, and runs it when the model is loaded ("models from code"). Nothing is pickled.
The model brings its own copy of this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedGenerator(PythonModel):
    """A generator as an MLflow `pyfunc` model, with `bit_depth` and `batch_size` in its `model_config`."""

    def load_context(self, context: Any) -> None:
        """Load the generator. A file that would run code is refused."""
        # Import here: MLflow also runs this file when the model is saved, without need of TensorFlow.
        from cyclegan.models.translator import Translator, load_generator

        config = context.model_config
        self._translator = Translator(
            load_generator(Path(context.artifacts["generator"])),
            bit_depth=config["bit_depth"],
            batch_size=config["batch_size"],
        )

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Translate images [N, H, W, C] of any size, uint8 (uint16 for 16-bit models), to the same type and size."""
        return self._translator.translate(np.asarray(model_input))


set_model(ServedGenerator())

"""What the registry serves: stored images in, stored images out.

MLflow copies this file beside the model and runs it wherever the model is loaded ("models from code"): nothing is
pickled, and this package need not be installed there, for the model brings its own copy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedGenerator(PythonModel):
    """A generator as an MLflow `pyfunc` model. `model_config` holds `bit_depth` and `batch_size`."""

    def load_context(self, context: Any) -> None:
        """Load the generator, refusing files that would run code on loading."""
        # Not at the top: MLflow also runs this file when the model is saved, where TensorFlow is not needed.
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

"""Networks: generators, discriminators and their layers.

Importing this package registers the layers with Keras, so that `keras.saving.load_model` finds them.
"""

from __future__ import annotations

from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.models.legacy.keras_contrib import load_legacy_generator
from cyclegan.models.normalization import batches_are_independent
from cyclegan.models.summary import draw, summary_text
from cyclegan.models.translator import size_multiple
from cyclegan.system.keras_settings import pin_settings

pin_settings()

__all__ = [
    "batches_are_independent",
    "build_discriminator",
    "build_generator",
    "draw",
    "load_legacy_generator",
    "size_multiple",
    "summary_text",
]

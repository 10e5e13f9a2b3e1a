"""`params.yaml` → frozen typed objects, validated once, at the edge.

Deeper code receives values from these objects and never a dictionary. Each mistake that can be found before work
starts is refused here, in one line that names the key, its value and the remedy.
"""

from __future__ import annotations

from cyclegan.params.data import FOLDER_A, FOLDER_B, Data
from cyclegan.params.loading import flatten, load, read, validate
from cyclegan.params.schema import SHAPE_NOTHING, Params, Tracking
from cyclegan.params.search import Objective, Range, Search
from cyclegan.params.section import Size

__all__ = [
    "FOLDER_A",
    "FOLDER_B",
    "SHAPE_NOTHING",
    "Data",
    "Objective",
    "Params",
    "Range",
    "Search",
    "Size",
    "Tracking",
    "flatten",
    "load",
    "read",
    "validate",
]

"""The names of domains, splits and directions."""

from __future__ import annotations

from typing import Literal

Domain = Literal["A", "B"]
Split = Literal["train", "val", "test"]
Direction = Literal["AtoB", "BtoA"]

DOMAINS: tuple[Domain, ...] = ("A", "B")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# The source and the target domain of each direction.
DIRECTIONS: dict[Direction, tuple[Domain, Domain]] = {"AtoB": ("A", "B"), "BtoA": ("B", "A")}
OPPOSITE: dict[Direction, Direction] = {"AtoB": "BtoA", "BtoA": "AtoB"}

"""Domains, splits and directions: their keys, and the names of domains for readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["A", "B"]
Split = Literal["train", "val", "test"]
Direction = Literal["AtoB", "BtoA"]

DOMAINS: tuple[Domain, ...] = ("A", "B")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# The source and the target domain of each direction.
DIRECTIONS: dict[Direction, tuple[Domain, Domain]] = {"AtoB": ("A", "B"), "BtoA": ("B", "A")}
OPPOSITE: dict[Direction, Direction] = {"AtoB": "BtoA", "BtoA": "AtoB"}


@dataclass(frozen=True)
class DomainNames:
    """Names of both domains for readers. Keys, files and metrics keep A and B."""

    A: str = "A"
    B: str = "B"

    def of(self, domain: Domain) -> str:
        """The name of a domain."""
        return self.A if domain == "A" else self.B

    def arrow(self, direction: Direction) -> str:
        """A direction by the names of its domains, such as `flat → 3D`."""
        source, target = DIRECTIONS[direction]
        return f"{self.of(source)} → {self.of(target)}"


# The names where nothing else names the domains.
PLAIN_NAMES = DomainNames()

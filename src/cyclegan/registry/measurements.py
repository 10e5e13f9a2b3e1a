"""What stage `evaluate` found, kept with a registered version so that later ones can be compared with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cyclegan.system.files import replacing, write_json


@dataclass(frozen=True)
class Measured:
    """The metrics of one direction on the test split."""

    metrics: Mapping[str, float]
    identity: Mapping[str, float]
    """The same metrics for the input itself as output: what any use has to beat."""
    protocol: Mapping[str, Any]
    """How and on which images they were measured."""
    per_image: pd.DataFrame
    """One row for each image, as in `cyclegan.evaluation.protocol.Evaluation`."""

    def save(self, folder: Path) -> None:
        """Write `figures.json` and `per_image.csv`."""
        parts = {"figures": self.metrics, "identity": self.identity, "protocol": self.protocol}
        write_json(folder / "figures.json", {name: dict(part) for name, part in parts.items()})
        with replacing(folder / "per_image.csv") as temporary:
            self.per_image.to_csv(temporary, index=False, float_format="%.6g")

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """Read what `save` wrote."""
        parts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        per_image = read_per_image(folder / "per_image.csv")
        return cls(parts["figures"], parts["identity"], parts["protocol"], per_image)

    def of_each_image(self, name: str) -> pd.Series:
        """A metric by image (domain and id), for `pair_…` of scored pairs. Empty if no single image has it."""
        table = self.per_image
        if name not in table:
            return pd.Series(dtype=float)
        if name.removeprefix("baseline_").startswith("pair_"):
            table = table[table["scored"].astype("boolean").fillna(False)]
        return table.set_index(["domain", "id"])[name].dropna()


def read_per_image(file: Path) -> pd.DataFrame:
    """Read a `per_image.csv`. Names stay text, also those that look like numbers or like nothing (`0030`, `NA`)."""
    names = dict.fromkeys(("direction", "domain", "id", "partner"), str)
    return pd.read_csv(file, dtype=names, keep_default_na=False, na_values=[""], encoding="utf-8")

"""Measurements of stage `evaluate`, stored with a registered version for later comparisons."""

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
    """The same metrics of the identity baseline, which returns the input."""
    protocol: Mapping[str, Any]
    """Version, images and options of the measurement."""
    per_image: pd.DataFrame
    """One row for each image, as in `evaluation.protocol.Evaluation`."""

    def save(self, folder: Path) -> None:
        """Write the two files of a version, which keep their names and keys."""
        parts = {"figures": self.metrics, "identity": self.identity, "protocol": self.protocol}
        write_json(folder / "figures.json", {name: dict(part) for name, part in parts.items()})
        with replacing(folder / "per_image.csv") as temporary:
            self.per_image.to_csv(temporary, index=False, float_format="%.6g")

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """Read the files that `save` writes."""
        parts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        per_image = read_per_image(folder / "per_image.csv")
        return cls(parts["figures"], parts["identity"], parts["protocol"], per_image)

    def values_by_image(self, name: str) -> pd.Series:
        """The values of a metric by domain and id; for `pair_…`, of scored pairs. Empty if single images have none."""
        table = self.per_image
        if name not in table:
            return pd.Series(dtype=float)
        if name.removeprefix("baseline_").startswith("pair_"):
            table = table[table["scored"].astype("boolean").fillna(False)]
        return table.set_index(["domain", "id"])[name].dropna()


def read_per_image(file: Path) -> pd.DataFrame:
    """Read a `per_image.csv`. Names such as `0030` and `NA` stay text."""
    names = dict.fromkeys(("direction", "domain", "id", "partner"), str)
    return pd.read_csv(file, dtype=names, keep_default_na=False, na_values=[""], encoding="utf-8")

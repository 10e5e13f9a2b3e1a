"""The metrics of an evaluation as text: one table of both directions, and the verdict in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cyclegan.domains import DIRECTIONS, Direction, DomainNames
from cyclegan.evaluation.comparison.gain import Gain, combined_gain, paired_gain
from cyclegan.evaluation.metrics import PSNR_CAP
from cyclegan.evaluation.protocol import Evaluation
from cyclegan.metric_names import higher_is_better

MISSING = "–"
# The metrics that can decide whether a generator beats the identity baseline, the first that the data has.
DECIDING = ("pair_psnr", "kid")


@dataclass(frozen=True)
class Scale:
    """Name, unit and digits of a metric for display."""

    name: str
    unit: str
    digits: int
    perfect: float | None = None
    """The value of an image compared with itself."""

    def text(self, value: float, error: float | None = None) -> str:
        return f"{value:.{self.digits}f}" + ("" if error is None else f" ± {self._fine(error, error)}")

    def verdict(self, gain: Gain | None) -> str:
        """A gain in words: a dash without a standard error, and `equal` within it."""
        if gain is None or not math.isfinite(gain.standard_error):
            return MISSING
        error = gain.standard_error
        if not (gain.is_better or gain.is_worse):
            return f"equal within {self._fine(error, error)}{self.unit}" if error else "equal"
        by = f"{self._fine(abs(gain.mean), error)} ± {self._fine(error, error)}{self.unit}"
        return f"{'better' if gain.is_better else 'worse'} by {by}"

    def _fine(self, value: float, error: float) -> str:
        """The value with as many digits as the error needs, at most three more than usual."""
        needed = -math.floor(math.log10(error)) if error else 0
        digits = min(max(self.digits, needed), self.digits + 3)
        return f"{value:.{digits}f}"


IMAGE_SCALES = {
    "psnr": Scale("PSNR", " dB", 2, perfect=PSNR_CAP),
    "ssim": Scale("SSIM", "", 3, perfect=1.0),
    "l1": Scale("L1", "", 4, perfect=0.0),
    "perceptual": Scale("Feature distance", "", 4, perfect=0.0),
    "top1": Scale("Partner found first", "", 3),
    "top5": Scale("Partner in first 5", "", 3),
}
SET_SCALES = {
    "kid": Scale("KID", "", 4),
    "frechet": Scale("Fréchet distance", "", 2),
    "precision": Scale("Precision", "", 3),
    "recall": Scale("Recall", "", 3),
    "diversity": Scale("Diversity", "", 3),
}
ACCURACY_SCALES = {
    "transfer_accuracy": Scale("Trained on translations", "", 4),
    "content_accuracy": Scale("Tested on translations", "", 4),
}
# Groups of the table: the scale of each metric. `faithfulness` groups are perfect for the identity baseline.
COMPARED = {
    "Translations against their true partners": {f"pair_{key}": scale for key, scale in IMAGE_SCALES.items()},
    "All translations against all real images of the target": SET_SCALES,
    "Accuracy of a classifier (otherwise trained and tested on real images of the target)": ACCURACY_SCALES,
}
FAITHFULNESS = {
    "Translations against their inputs (how much they change)": {
        **{f"change_{key}": IMAGE_SCALES[key] for key in ("l1", "perceptual")},
        "input_top1": Scale("Input found first", "", 3),
    },
    "Cycle, there and back, against the inputs": {f"cycle_{key}": IMAGE_SCALES[key] for key in ("psnr", "ssim", "l1")},
    "Identity: translations of images of the target against themselves": {
        f"identity_{key}": IMAGE_SCALES[key] for key in ("psnr", "ssim", "l1")
    },
}


@dataclass(frozen=True)
class Cell:
    """One metric of one direction, as text."""

    model: str = MISSING
    baseline: str = MISSING
    color_map: str = MISSING
    verdict: str = MISSING

    @property
    def tone(self) -> str:
        """The CSS class of the verdict: `better`, `worse` or `soft`."""
        word = self.verdict.split()[0]
        return word if word in ("better", "worse") else "soft"


@dataclass(frozen=True)
class Row:
    """One metric of both directions.

    Attributes:
        name: with its unit.
        better: which values are better.
        cells: one for each direction.
    """

    name: str
    better: str
    cells: dict[Direction, Cell]


class MetricsTable:
    """The metrics of both directions beside the baselines.

    Args:
        evaluation: the result of `protocol.evaluate`.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._metrics: Mapping[Direction, Mapping[str, Any]] = {key: evaluation.metrics[key] for key in DIRECTIONS}
        self._images = {
            direction: evaluation.per_image[evaluation.per_image["direction"] == direction] for direction in DIRECTIONS
        }
        self.gains = {direction: self._gains(direction) for direction in DIRECTIONS}
        self.has_color_map = any("color_map" in metrics for metrics in self._metrics.values())

    def groups(self) -> dict[str, list[Row]]:
        """The rows by the title of their group; only metrics that the data has."""
        groups = {title: self._rows(scales, is_compared=True) for title, scales in COMPARED.items()}
        if any("supervised" in metrics for metrics in self._metrics.values()):
            groups["Accuracy of a classifier (otherwise trained and tested on real images of the target)"].append(
                self._supervised()
            )
        groups |= {title: self._rows(scales, is_compared=False) for title, scales in FAITHFULNESS.items()}
        return {title: rows for title, rows in groups.items() if rows}

    def verdict(self, names: DomainNames) -> str:
        """Whether each generator beats the identity baseline, in one sentence."""
        both = {direction: self._verdict_on(direction) for direction in DIRECTIONS}
        return "; ".join(f"{names.arrow(direction)} {verdict}" for direction, verdict in both.items()) + "."

    def tone(self) -> str:
        """The CSS class of the verdict: `better` or `worse` if it is so in both directions, else `soft`."""
        words = {self._verdict_on(direction).split()[0] for direction in DIRECTIONS}
        return {"beats": "better", "loses": "worse"}.get(words.pop(), "soft") if len(words) == 1 else "soft"

    def _verdict_on(self, direction: Direction) -> str:
        metrics, gains = self._metrics[direction], self.gains[direction]
        if "identity" not in metrics:
            return "has no identity baseline, because the channels differ"
        deciding = next((key for key in DECIDING if key in metrics), None)
        gain = None if deciding is None else gains.get(deciding)
        if deciding is None or gain is None or not math.isfinite(gain.standard_error):
            return "has no verdict, because the test split has too few images"
        scale = _SCALES[deciding]
        words = "beats" if gain.is_better else "loses to" if gain.is_worse else "is not better than"
        return f"{words} the identity baseline ({scale.name} {scale.verdict(gain)})"

    def _rows(self, scales: Mapping[str, Scale], *, is_compared: bool) -> list[Row]:
        present = [key for key in scales if any(key in metrics for metrics in self._metrics.values())]
        return [
            Row(
                f"{scales[key].name}{f',{scales[key].unit}' if scales[key].unit else ''}",
                _better(key, is_compared),
                {direction: self._cell(direction, key, scales[key], is_compared) for direction in DIRECTIONS},
            )
            for key in present
        ]

    def _cell(self, direction: Direction, key: str, scale: Scale, is_compared: bool) -> Cell:
        metrics = self._metrics[direction]
        if key not in metrics:
            return Cell()
        model = self._model_value(direction, metrics, key, scale)
        if not is_compared:
            return Cell(model, MISSING if scale.perfect is None else scale.text(scale.perfect))
        others = (metrics.get(kind, {}) for kind in ("identity", "color_map"))
        baseline, color_map = (scale.text(other[key]) if key in other else MISSING for other in others)
        return Cell(model, baseline, color_map, scale.verdict(self.gains[direction].get(key)))

    def _model_value(self, direction: Direction, metrics: Mapping[str, Any], key: str, scale: Scale) -> str:
        """The value with its standard error, over the images that count or as the evaluation estimated it."""
        values = self._values(direction, key)
        error = None if values is None or len(values) < 2 else float(values.std(ddof=1)) / math.sqrt(len(values))
        return scale.text(metrics[key], metrics.get(f"{key}_se", error))

    def _values(self, direction: Direction, column: str) -> pd.Series | None:
        """The values of the images whose mean is a metric; None if single images have none."""
        table = self._images[direction]
        if "pair_" in column and "scored" in table:
            table = table[table["scored"].astype("boolean").fillna(False)]
        if column in table:
            return table[column].dropna()
        rank, _, first = column.rpartition("_top")
        if first.isdecimal() and f"{rank}_rank" in table:
            return table[f"{rank}_rank"].dropna().le(int(first)).astype(float)
        return None

    def _gains(self, direction: Direction) -> dict[str, Gain]:
        """The gains of the model over the identity baseline, by metric; only those with a standard error."""
        metrics = self._metrics[direction]
        baseline = metrics.get("identity", {})
        gains: dict[str, Gain | None] = {}
        for key in metrics.keys() & baseline.keys():
            values, others = self._values(direction, key), self._values(direction, f"baseline_{key}")
            if values is not None and others is not None:
                gains[key] = paired_gain(key, values, others)
            else:
                gains[key] = combined_gain(key, metrics, baseline)
        return {key: gain for key, gain in gains.items() if gain is not None}

    def _supervised(self) -> Row:
        scale = ACCURACY_SCALES["transfer_accuracy"]
        cells = {}
        for direction in DIRECTIONS:
            metrics = self._metrics[direction].get("supervised")
            value = MISSING if metrics is None else self._model_value(direction, metrics, "transfer_accuracy", scale)
            cells[direction] = Cell(value)
        return Row("Only real images", _better("accuracy", True), cells)


_SCALES = {key: scale for scales in COMPARED.values() for key, scale in scales.items()}


def _better(key: str, is_compared: bool) -> str:
    """Which values of a metric are better; nothing for those that only describe."""
    higher = higher_is_better(key) if is_compared or not key.startswith(("change_", "input_")) else None
    return "" if higher is None else "higher is better" if higher else "lower is better"

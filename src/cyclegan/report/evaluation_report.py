"""The files of an evaluation: metrics for programs, and one self-contained page for readers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset, picked
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, Direction, DomainNames
from cyclegan.evaluation.comparison.gain import Gain, combined_gain, paired_gain
from cyclegan.evaluation.metrics import PSNR_CAP
from cyclegan.evaluation.protocol import Evaluation, evenly
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator, each
from cyclegan.report.curves import curves
from cyclegan.report.diagnostics import diagnose, diagnose_discriminators
from cyclegan.report.grid import comparison_grid, strips
from cyclegan.system.files import replacing, write_json, write_text
from cyclegan.system.html import page_template

# The page shows this many best and this many worst pairs.
EXTREMES = 10


@dataclass(frozen=True)
class Pair:
    """One scored pair in the report."""

    name: str
    partner: str
    psnr: float
    ssim: float
    baseline_psnr: float | None
    strip: np.ndarray
    """Input, translation and true partner side by side, [H, W, 3], uint8."""


@dataclass(frozen=True)
class ReportImages:
    """The images of the report."""

    grid: np.ndarray
    """[H, W, 3], uint8."""
    best: dict[Direction, list[Pair]] = field(default_factory=dict)
    worst: dict[Direction, list[Pair]] = field(default_factory=dict)


def draw(
    translators: Mapping[Direction, Translator],
    dataset: PackedDataset,
    evaluation: Evaluation,
    count: int,
    names: DomainNames | None = None,
) -> ReportImages:
    """Translate the images of the report.

    Args:
        translators, dataset, evaluation: the arguments and the result of `evaluate`.
        count: number of rows of the grid: scored pairs if there are any, else images spread over the split.
        names: of the domains, for the headings; None: A and B.
    """
    names = names or DomainNames()
    split = evaluation.metrics["protocol"]["split"]
    pairs = dataset.pairs(split)
    indices = {domain: evenly(len(dataset.images(domain, split)), count) for domain in DOMAINS}
    if pairs.scored.any():
        rows = np.flatnonzero(pairs.scored)[evenly(pairs.scored.sum(), count)]
        indices = {"A": pairs.index_A[rows], "B": pairs.index_B[rows]}
    blocks = []
    best: dict[Direction, list[Pair]] = {}
    worst: dict[Direction, list[Pair]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        real = picked(dataset.images(source, split), indices[source])
        translated = each(translators[direction].translate_float, each(to_float, real))
        back = each(translators[OPPOSITE[direction]].translate_float, translated)
        block = [
            (f"real {names.of(source)}", real),
            (names.arrow(direction), each(lambda x: to_integer(x, dataset.bit_depth), translated)),
            (f"{names.arrow(direction)} → {names.of(source)}", each(lambda x: to_integer(x, dataset.bit_depth), back)),
        ]
        if pairs.scored.any():
            block.append((f"true {names.of(target)}", picked(dataset.images(target, split), indices[target])))
            best[direction], worst[direction] = _extremes(translators[direction], dataset, evaluation, direction)
        blocks.append(block)
    return ReportImages(comparison_grid(blocks), best, worst)


def write_reports(
    folder: Path,
    evaluation: Evaluation,
    images: ReportImages,
    *,
    title: str,
    run: Mapping[str, object],
    history: pd.DataFrame | None = None,
    adversarial_loss: str = "least_squares",
    over_time: np.ndarray | None = None,
) -> None:
    """Write `details.json`, `per_image.csv`, `grid.png` and `report.html` into `folder`.

    The page loads nothing from the network and runs no script.

    Args:
        folder: created if missing; existing files of these names are replaced.
        evaluation, images: the results of `evaluate` and `draw`.
        title: heading of the page, usually the data set's name.
        run: provenance of the generators by its label on the page, such as run id, commit, device and duration; values
            of None are left out.
        history: the training's series for `curves` and `diagnose_discriminators`.
        adversarial_loss: that of the training.
        over_time: validation images at several evaluations of the training, [H, W, 3] uint8.
    """
    write_json(folder / "details.json", evaluation.metrics)
    with replacing(folder / "per_image.csv") as temporary:
        evaluation.per_image.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(folder / "grid.png") as temporary:
        temporary.write_bytes(_png(images.grid))
    write_text(folder / "report.html", _page(evaluation, images, title, run, history, adversarial_loss, over_time))


def _page(
    evaluation: Evaluation,
    images: ReportImages,
    title: str,
    run: Mapping[str, object],
    history: pd.DataFrame | None,
    adversarial_loss: str,
    over_time: np.ndarray | None,
) -> str:
    fewest = min(evaluation.metrics["protocol"]["counts"][domain] for domain in DOMAINS)
    gains = {direction: _gains(evaluation, direction) for direction in DIRECTIONS}
    return page_template("cyclegan.report", "evaluation_report.html.j2", _png).render(
        title=title,
        protocol=evaluation.metrics["protocol"],
        checkpoint=evaluation.metrics.get("checkpoint"),
        psnr_cap=PSNR_CAP,
        directions=[
            {
                "name": f"{source} → {target}",
                "summary": _summary(evaluation.metrics[direction], gains[direction]),
                "headline": _headline(evaluation.metrics[direction], gains[direction], source, target),
                "has_color_map": "color_map" in evaluation.metrics[direction],
                "findings": diagnose(evaluation.metrics[direction], source, target, fewest),
                "best": images.best.get(direction, []),
                "worst": images.worst.get(direction, []),
            }
            for direction, (source, target) in DIRECTIONS.items()
        ],
        grid=images.grid,
        curves=None if history is None else curves(history),
        run={label: value for label, value in run.items() if value is not None},
        discriminators=[] if history is None else diagnose_discriminators(history, adversarial_loss),
        dimensions_too_many=_too_few_for_frechet(evaluation.metrics["protocol"]),
        over_time=over_time,
    )


def _too_few_for_frechet(protocol: Mapping[str, Any]) -> bool:
    """Whether covariances are estimated from fewer images than dimensions, which biases the Fréchet distance."""
    smallest = min(protocol["counts"][domain] for domain in DOMAINS)
    return "features" in protocol and smallest <= protocol["features"]["dimensions"]


@dataclass(frozen=True)
class Scale:
    """Name, unit and digits of a metric for display."""

    name: str
    unit: str
    digits: int
    perfect: float | None = None
    """The value of an image compared with itself."""

    def text(self, value: float, error: float | None = None) -> str:
        return f"{value:.{self.digits}f}{self.unit}" + ("" if error is None else f" ± {error:.{self.digits}f}")

    def verdict(self, gain: Gain | None) -> str:
        """A gain in words: a dash without a standard error, and `equal` within it."""
        if gain is None or not math.isfinite(gain.standard_error):
            return "–"
        error = gain.standard_error
        if not (gain.is_better or gain.is_worse):
            return f"equal within {self._fine(error, error)}" if error else "equal"
        by = f"{self._fine(abs(gain.mean), error)} ± {self._fine(error, error)}"
        return f"{'better' if gain.is_better else 'worse'} by {by}"

    def _fine(self, value: float, error: float) -> str:
        """The value with as many digits as the error needs, at most three more than usual."""
        needed = -math.floor(math.log10(error)) if error else 0
        digits = min(max(self.digits, needed), self.digits + 3)
        return f"{value:.{digits}f}{self.unit}"


SCALES = {
    "psnr": Scale("PSNR", " dB", 2, perfect=PSNR_CAP),
    "ssim": Scale("SSIM", "", 3, perfect=1.0),
    "l1": Scale("L1", "", 4, perfect=0.0),
    "perceptual": Scale("Feature distance", "", 4, perfect=0.0),
    "top1": Scale("Partner found first", "", 3),
    "top5": Scale("Partner among the first 5", "", 3),
}
SET_SCALES = {
    "kid": Scale("KID", "", 4),
    "frechet": Scale("Fréchet distance", "", 2),
    "precision": Scale("Precision", "", 3),
    "recall": Scale("Recall", "", 3),
    "diversity": Scale("Diversity (real: 1)", "", 3),
}

ACCURACY = Scale("Accuracy", "", 4)


@dataclass(frozen=True)
class Line:
    """One row of a results table, as text."""

    name: str
    model: str
    baseline: str = "–"
    color_map: str = "–"
    verdict: str = "–"
    tone: str = "soft"
    """The CSS class of the verdict: `better`, `worse` or `soft`."""


def _headline(metrics: Mapping[str, Any], gains: Mapping[str, Gain], source: str, target: str) -> dict[str, list[Line]]:
    """The metrics of one direction beside those of the identity baseline, grouped by their reference."""
    tables = _accuracies(metrics, gains, source, target) | {
        f"{source} → {target} against the true partner": [
            _compared_line(scale, f"pair_{key}", metrics, gains)
            for key, scale in SCALES.items()
            if f"pair_{key}" in metrics
        ],
        f"All {source} → {target} against all real {target}": [
            _compared_line(scale, key, metrics, gains) for key, scale in SET_SCALES.items() if key in metrics
        ],
        f"{source} → {target} against the input (how much it changes)": [
            _faithful_line(scale, f"change_{key}", metrics)
            for key, scale in SCALES.items()
            if f"change_{key}" in metrics
        ],
        f"{source} → {target} → {source} against the input (cycle; the identity baseline is perfect)": [
            _faithful_line(scale, f"cycle_{key}", metrics) for key, scale in SCALES.items() if f"cycle_{key}" in metrics
        ],
        f"{target} → {target} against the input (identity; the identity baseline is perfect)": [
            _faithful_line(scale, f"identity_{key}", metrics)
            for key, scale in SCALES.items()
            if f"identity_{key}" in metrics
        ],
    }
    if "input_top1" in metrics:
        line = Line("Input found first", f"{metrics['input_top1']:.3f}")
        tables[f"{source} → {target} against the input (how much it changes)"].append(line)
    return {title: lines for title, lines in tables.items() if lines}


def _accuracies(
    metrics: Mapping[str, Any], gains: Mapping[str, Gain], source: str, target: str
) -> dict[str, list[Line]]:
    if "supervised" not in metrics:
        return {}
    most = ACCURACY.text(metrics["supervised"]["transfer_accuracy"])
    lines = {
        "transfer_accuracy": f"Trained on {source} → {target}, tested on real {target}",
        "content_accuracy": f"Trained on real {target} with its labels, tested on {source} → {target}",
    }
    return {
        f"Accuracy of a classifier ({most} if trained and tested on real {target} with its labels)": [
            replace(_compared_line(ACCURACY, key, metrics, gains), name=name) for key, name in lines.items()
        ]
    }


def _gains(evaluation: Evaluation, direction: Direction) -> dict[str, Gain]:
    """The gains of the model over the identity baseline, by metric; only those with a standard error."""
    metrics = evaluation.metrics[direction]
    baseline = metrics.get("identity", {})
    table = evaluation.per_image
    if "scored" in table:
        table = table[(table["direction"] == direction) & table["scored"].astype("boolean").fillna(False)]
    gains: dict[str, Gain | None] = {}
    for key in metrics.keys() & baseline.keys():
        if f"baseline_{key}" in table:
            gains[key] = paired_gain(key, table[key], table[f"baseline_{key}"])
        elif key.startswith("pair_top") and "baseline_pair_rank" in table:
            first = int(key.removeprefix("pair_top"))
            hits, baseline_hits = (table[rank].le(first).astype(float) for rank in ("pair_rank", "baseline_pair_rank"))
            gains[key] = paired_gain(key, hits, baseline_hits)
        else:
            gains[key] = combined_gain(key, metrics, baseline)
    return {key: gain for key, gain in gains.items() if gain is not None}


def _compared_line(scale: Scale, key: str, metrics: Mapping[str, Any], gains: Mapping[str, Gain]) -> Line:
    """The row of a metric in which a translation must beat the identity baseline."""

    def text(by: Mapping[str, Any]) -> str:
        return scale.text(by[key], by.get(f"{key}_se")) if key in by else "–"

    baseline = metrics.get("identity", {})
    verdict = scale.verdict(gains.get(key))
    tone = verdict.split()[0] if verdict.startswith(("better", "worse")) else "soft"
    return Line(scale.name, text(metrics), text(baseline), text(metrics.get("color_map", {})), verdict, tone)


def _faithful_line(scale: Scale, key: str, metrics: Mapping[str, Any]) -> Line:
    """The row of a metric in which the identity baseline is perfect, so that being worse is no fault."""
    value, perfect = metrics[key], scale.perfect
    assert perfect is not None
    return Line(scale.name, scale.text(value), scale.text(perfect))


def _summary(metrics: Mapping[str, Any], gains: Mapping[str, Gain]) -> str:
    """One direction in one or two sentences."""
    scales = {f"pair_{key}": scale for key, scale in SCALES.items() if scale.perfect is not None}
    scales |= {"kid": SET_SCALES["kid"], "transfer_accuracy": ACCURACY}
    verdicts = [
        f"{scale.name} {verdict}" for key, scale in scales.items() if (verdict := scale.verdict(gains.get(key))) != "–"
    ]
    against = f"Against the identity baseline: {', '.join(verdicts)}." if verdicts else ""
    if "pair_n" not in metrics:
        return f"No true pairs: look at the images as well as at the metrics. {against}".strip()
    pairs = f"{metrics['pair_n']} true pair{'' if metrics['pair_n'] == 1 else 's'}"
    if "identity" not in metrics:
        return f"Measured on {pairs}. The channels differ, so there is no identity baseline."
    if not verdicts:
        return f"Measured on {pairs}, too few for a standard error: no verdict."
    return f"On {pairs}, {against[0].lower()}{against[1:]}"


def _extremes(
    translator: Translator, dataset: PackedDataset, evaluation: Evaluation, direction: Direction
) -> tuple[list[Pair], list[Pair]]:
    """The scored pairs of highest and of lowest PSNR, the most extreme first; no pair is in both."""
    source, target = DIRECTIONS[direction]
    split = evaluation.metrics["protocol"]["split"]
    table = evaluation.per_image
    # The rows of the source domain have the order of the packed images.
    table = table[(table["direction"] == direction) & (table["domain"] == source)].reset_index(drop=True)
    ranked = table[table["scored"]].sort_values("pair_psnr", ascending=False)
    count = min(EXTREMES, (len(ranked) + 1) // 2)
    best, worst = ranked.head(count), ranked.iloc[count:].tail(count)[::-1]

    pairs = dataset.pairs(split)
    index, other = (pairs.index_A, pairs.index_B) if source == "A" else (pairs.index_B, pairs.index_A)
    partners = dict(zip(index.tolist(), other.tolist(), strict=True))

    def pairs_of(rows: pd.DataFrame) -> list[Pair]:
        if rows.empty:
            return []
        inputs = picked(dataset.images(source, split), rows.index.to_numpy())
        truth = picked(dataset.images(target, split), np.array([partners[row] for row in rows.index]))
        images = strips([inputs, each(translator.translate, inputs), truth])
        baselines = rows["baseline_pair_psnr"] if "baseline_pair_psnr" in rows else [None] * len(rows)
        columns = (rows["id"], rows["partner"], rows["pair_psnr"], rows["pair_ssim"], baselines, images)
        return [Pair(*values) for values in zip(*columns, strict=True)]

    return pairs_of(best), pairs_of(worst)


def _png(image: np.ndarray | Figure) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, Figure):
        image.savefig(buffer, format="png", dpi=160)
    else:
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

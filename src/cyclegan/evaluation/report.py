"""The evaluation as files: figures for machines, one self-contained page for people."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from cyclegan.data.dataset import PackedDataset, picked, to_float, to_integer
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, Direction
from cyclegan.evaluation.curves import curves
from cyclegan.evaluation.grid import comparison_grid, strips
from cyclegan.evaluation.metrics import PSNR_CAP
from cyclegan.evaluation.protocol import Evaluation, evenly
from cyclegan.files import replacing, write_json, write_text
from cyclegan.inference.translate import Translator, each

EXTREMES = 10
"""So many best and so many worst pairs are shown."""


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
class Pictures:
    """What the report shows."""

    grid: np.ndarray
    """[H, W, 3], uint8."""
    best: dict[Direction, list[Pair]] = field(default_factory=dict)
    worst: dict[Direction, list[Pair]] = field(default_factory=dict)


def draw(
    translators: Mapping[Direction, Translator], dataset: PackedDataset, evaluation: Evaluation, count: int
) -> Pictures:
    """Translate the pictures that the report shows.

    Args:
        translators, dataset, evaluation: as given to and returned by `evaluate`.
        count: rows of the grid: scored pairs where there are any, else pictures of each domain, spread over the split.
    """
    split = evaluation.metrics["protocol"]["split"]
    pairs = dataset.pairs(split)
    shown = {domain: evenly(len(dataset.images(domain, split)), count) for domain in DOMAINS}
    if pairs.scored.any():
        rows = np.flatnonzero(pairs.scored)[evenly(pairs.scored.sum(), count)]
        shown = {"A": pairs.index_A[rows], "B": pairs.index_B[rows]}
    blocks = []
    best: dict[Direction, list[Pair]] = {}
    worst: dict[Direction, list[Pair]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        real = picked(dataset.images(source, split), shown[source])
        translated = each(translators[direction].translate_float, each(to_float, real))
        back = each(translators[OPPOSITE[direction]].translate_float, translated)
        block = [
            (f"real {source}", real),
            (f"{source} to {target}", each(lambda x: to_integer(x, dataset.bit_depth), translated)),
            (f"{source} to {target} to {source}", each(lambda x: to_integer(x, dataset.bit_depth), back)),
        ]
        if pairs.scored.any():
            block.append((f"true {target}", picked(dataset.images(target, split), shown[target])))
            best[direction], worst[direction] = _extremes(translators[direction], dataset, evaluation, direction)
        blocks.append(block)
    return Pictures(comparison_grid(blocks), best, worst)


def write_reports(
    folder: Path,
    evaluation: Evaluation,
    pictures: Pictures,
    *,
    title: str,
    run: Mapping[str, object],
    history: pd.DataFrame | None = None,
) -> None:
    """Write `metrics.json`, `per_image.csv`, `grid.png` and `report.html` into `folder`.

    The page needs no network and runs no script.

    Args:
        folder: made where it is missing; files of these names are replaced.
        evaluation, pictures: from `evaluate` and `draw`.
        title: heading of the page, usually the data set's name.
        run: what made the generators, label by label as it is to be read (run id, commit, md5 of the data, device,
            duration); entries of None are left out.
        history: the training's series for `curves`.
    """
    write_json(folder / "metrics.json", evaluation.metrics)
    with replacing(folder / "per_image.csv") as temporary:
        evaluation.per_image.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(folder / "grid.png") as temporary:
        temporary.write_bytes(_png(pictures.grid))
    write_text(folder / "report.html", _page(evaluation, pictures, title, run, history))


def _page(
    evaluation: Evaluation,
    pictures: Pictures,
    title: str,
    run: Mapping[str, object],
    history: pd.DataFrame | None,
) -> str:
    environment = Environment(
        loader=PackageLoader("cyclegan.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = _data_url
    figure = None if history is None else curves(history)
    return environment.get_template("report.html.j2").render(
        title=title,
        protocol=evaluation.metrics["protocol"],
        psnr_cap=PSNR_CAP,
        directions=[
            {
                "name": f"{source} → {target}",
                "summary": _summary(evaluation.metrics[direction]),
                "headline": _headline(evaluation.metrics[direction], source, target),
                "best": pictures.best.get(direction, []),
                "worst": pictures.worst.get(direction, []),
            }
            for direction, (source, target) in DIRECTIONS.items()
        ],
        grid=pictures.grid,
        curves=None if figure is None else _rendered(figure),
        run={label: value for label, value in run.items() if value is not None},
    )


@dataclass(frozen=True)
class Scale:
    """How one figure is read."""

    name: str
    unit: str
    digits: int
    higher_is_better: bool
    perfect: float

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}{self.unit}"

    def verdict(self, value: float, baseline: float) -> str:
        """The model against the baseline in words, at the precision that is printed."""
        gain = round(value, self.digits) - round(baseline, self.digits)
        if not self.higher_is_better:
            gain = -gain
        by = self.text(abs(gain))
        return f"better by {by}" if gain > 0 else f"worse by {by}" if gain < 0 else "equal"


SCALES = {
    "psnr": Scale("PSNR", " dB", 2, higher_is_better=True, perfect=PSNR_CAP),
    "ssim": Scale("SSIM", "", 3, higher_is_better=True, perfect=1.0),
    "l1": Scale("L1", "", 4, higher_is_better=False, perfect=0.0),
}


@dataclass(frozen=True)
class Line:
    """One line of a headline table, as text."""

    name: str
    model: str
    baseline: str = "–"
    verdict: str = "–"
    tone: str = "soft"
    """Class of the verdict on the page: `better`, `worse` or `soft`."""


def _headline(figures: Mapping[str, Any], source: str, target: str) -> dict[str, list[Line]]:
    """Each figure of one direction beside that of returning the input unchanged, by what it is measured against."""
    baseline = figures.get("identity", {})
    against = {
        "pair": f"{source} → {target} against the true partner",
        "cycle": f"{source} → {target} → {source} against the input (cycle; doing nothing is perfect)",
        "identity": f"{target} → {target} against the input (identity; doing nothing is perfect)",
    }
    tables: dict[str, list[Line]] = {}
    for kind, title in against.items():
        for key, scale in SCALES.items():
            value = figures.get(f"{kind}_{key}")
            if value is None:
                continue
            line = Line(scale.name, scale.text(value))
            unchanged = baseline.get(f"pair_{key}") if kind == "pair" else scale.perfect
            if unchanged is not None:
                verdict, tone = scale.verdict(value, unchanged), "soft"
                if kind != "pair":
                    # No contest: falling behind a perfect score by doing something is no fault.
                    verdict = verdict.split()[0]
                elif verdict != "equal":
                    tone = verdict.split()[0]
                line = Line(scale.name, scale.text(value), scale.text(unchanged), verdict, tone)
            tables.setdefault(title, []).append(line)
    if "change_l1" in figures:
        scale = SCALES["l1"]
        line = Line(scale.name, scale.text(figures["change_l1"]), scale.text(baseline["change_l1"]))
        tables[f"{source} → {target} against the input (how much it changes)"] = [line]
    return tables


def _summary(figures: Mapping[str, Any]) -> str:
    """One direction in a sentence."""
    if "pair_n" not in figures:
        return "No true pairs: the figures show how faithful the translation is, not how good. Look at the pictures."
    baseline = figures.get("identity", {})
    verdicts = [
        f"{scale.name} {scale.verdict(figures[f'pair_{key}'], baseline[f'pair_{key}'])}"
        for key, scale in SCALES.items()
        if f"pair_{key}" in baseline
    ]
    pairs = f"{figures['pair_n']} true pairs"
    if not verdicts:
        return f"Measured on {pairs}. The channels differ, so that there is no unchanged input to compare with."
    return f"On {pairs}, against the unchanged input: {', '.join(verdicts)}."


def _extremes(
    translator: Translator, dataset: PackedDataset, evaluation: Evaluation, direction: Direction
) -> tuple[list[Pair], list[Pair]]:
    """The scored pairs of highest and of lowest PSNR, best and worst first; no pair is in both."""
    source, target = DIRECTIONS[direction]
    split = evaluation.metrics["protocol"]["split"]
    table = evaluation.per_image
    # The rows of the source domain lie in the order of the packed pictures.
    table = table[(table["direction"] == direction) & (table["domain"] == source)].reset_index(drop=True)
    ranked = table[table["scored"]].sort_values("pair_psnr", ascending=False)
    count = min(EXTREMES, (len(ranked) + 1) // 2)
    best, worst = ranked.head(count), ranked.iloc[count:].tail(count)[::-1]

    pairs = dataset.pairs(split)
    index, other = (pairs.index_A, pairs.index_B) if source == "A" else (pairs.index_B, pairs.index_A)
    partners = dict(zip(index.tolist(), other.tolist(), strict=True))

    def shown(rows: pd.DataFrame) -> list[Pair]:
        if rows.empty:
            return []
        inputs = picked(dataset.images(source, split), rows.index.to_numpy())
        truth = picked(dataset.images(target, split), np.array([partners[row] for row in rows.index]))
        pictures = strips([inputs, each(translator.translate, inputs), truth])
        baselines = rows["baseline_pair_psnr"] if "baseline_pair_psnr" in rows else [None] * len(rows)
        columns = (rows["id"], rows["partner"], rows["pair_psnr"], rows["pair_ssim"], baselines, pictures)
        return [Pair(*values) for values in zip(*columns, strict=True)]

    return shown(best), shown(worst)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _data_url(image: np.ndarray | bytes) -> str:
    data = image if isinstance(image, bytes) else _png(image)
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()

"""The files of an evaluation: metrics for programs, and one self-contained page for readers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cyclegan.data.loading.dataset import PackedDataset, picked
from cyclegan.domains import DIRECTIONS, DOMAINS, OPPOSITE, PLAIN_NAMES, Direction, DomainNames
from cyclegan.evaluation.metrics import PSNR_CAP
from cyclegan.evaluation.protocol import Evaluation, evenly
from cyclegan.models.pixels import to_float, to_integer
from cyclegan.models.translator import Translator, each
from cyclegan.report.curves import Panel, panels
from cyclegan.report.diagnostics import Finding, diagnose, diagnose_discriminators
from cyclegan.report.grid import Column, columns_grid, comparison_grid, strips
from cyclegan.report.metrics_table import MetricsTable
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
class Block:
    """The grid of one direction.

    Attributes:
        headings: one for each column.
        image: [H, W, 3], uint8, without the headings.
    """

    headings: list[str]
    image: np.ndarray


@dataclass(frozen=True)
class ReportImages:
    """The images of the report."""

    grid: np.ndarray
    """Both directions with headings, [H, W, 3], uint8."""
    blocks: dict[Direction, Block] = field(default_factory=dict)
    best: dict[Direction, list[Pair]] = field(default_factory=dict)
    worst: dict[Direction, list[Pair]] = field(default_factory=dict)


def draw(
    translators: Mapping[Direction, Translator],
    dataset: PackedDataset,
    evaluation: Evaluation,
    count: int,
    names: DomainNames = PLAIN_NAMES,
) -> ReportImages:
    """Translate the images of the report.

    Args:
        translators, dataset, evaluation: the arguments and the result of `evaluate`.
        count: number of rows of the grid: scored pairs if there are any, else images spread over the split.
        names: of the domains, for the headings.
    """
    split = evaluation.metrics["protocol"]["split"]
    pairs = dataset.pairs(split)
    indices = {domain: evenly(len(dataset.images(domain, split)), count) for domain in DOMAINS}
    if pairs.scored.any():
        rows = np.flatnonzero(pairs.scored)[evenly(pairs.scored.sum(), count)]
        indices = {"A": pairs.index_A[rows], "B": pairs.index_B[rows]}
    blocks: dict[Direction, list[tuple[str, Column]]] = {}
    best: dict[Direction, list[Pair]] = {}
    worst: dict[Direction, list[Pair]] = {}
    for direction, (source, target) in DIRECTIONS.items():
        real = picked(dataset.images(source, split), indices[source])
        translated = each(translators[direction].translate_float, each(to_float, real))
        back = each(translators[OPPOSITE[direction]].translate_float, translated)
        first, second = names.of(source), names.of(target)
        blocks[direction] = [
            (f"real {first}", real),
            (f"{first} to {second}", each(lambda x: to_integer(x, dataset.bit_depth), translated)),
            (f"{first} to {second} to {first}", each(lambda x: to_integer(x, dataset.bit_depth), back)),
        ]
        if pairs.scored.any():
            blocks[direction].append((f"true {second}", picked(dataset.images(target, split), indices[target])))
            best[direction], worst[direction] = _extremes(translators[direction], dataset, evaluation, direction)
    grids = {
        direction: Block([heading for heading, _ in block], columns_grid([images for _, images in block]))
        for direction, block in blocks.items()
    }
    return ReportImages(comparison_grid([*blocks.values()]), grids, best, worst)


def write_reports(
    folder: Path,
    evaluation: Evaluation,
    images: ReportImages,
    *,
    title: str,
    run: Mapping[str, object],
    run_url: str | None = None,
    names: DomainNames = PLAIN_NAMES,
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
        run_url: address of the run in MLflow; None if it is unknown.
        names: of the domains.
        history: the training's series for `panels` and `diagnose_discriminators`.
        adversarial_loss: that of the training.
        over_time: validation images at several evaluations of the training, [H, W, 3] uint8.
    """
    write_json(folder / "details.json", evaluation.metrics)
    with replacing(folder / "per_image.csv") as temporary:
        evaluation.per_image.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(folder / "grid.png") as temporary:
        temporary.write_bytes(_png(images.grid))
    table = MetricsTable(evaluation)
    text = page_template("cyclegan.report", "evaluation_report.html.j2", _png).render(
        title=title,
        names=names,
        directions=DIRECTIONS,
        protocol=evaluation.metrics["protocol"],
        checkpoint=evaluation.metrics.get("checkpoint"),
        table=table,
        findings=_findings(evaluation, names, history, adversarial_loss),
        images=images,
        panels=[] if history is None else _drawn_panels(history, evaluation.metrics.get("checkpoint"), names),
        over_time=over_time,
        run={label: value for label, value in run.items() if value is not None},
        run_url=run_url,
        psnr_cap=PSNR_CAP,
        dimensions_too_many=_too_few_for_frechet(evaluation.metrics["protocol"]),
    )
    write_text(folder / "report.html", text)


def _findings(
    evaluation: Evaluation, names: DomainNames, history: pd.DataFrame | None, adversarial_loss: str
) -> dict[str, list[Finding]]:
    """The findings by what they are about: a direction, or the discriminators."""
    fewest = min(evaluation.metrics["protocol"]["counts"][domain] for domain in DOMAINS)
    findings = {
        names.arrow(direction): diagnose(evaluation.metrics[direction], names.of(source), names.of(target), fewest)
        for direction, (source, target) in DIRECTIONS.items()
    }
    if history is not None:
        findings["Discriminators"] = diagnose_discriminators(history, adversarial_loss, names)
    return {about: found for about, found in findings.items() if found}


def _drawn_panels(
    history: pd.DataFrame, checkpoint: Mapping[str, Any] | None, names: DomainNames
) -> list[tuple[Panel, str, Figure]]:
    """The panels of a training with their descriptions and drawings."""
    epoch = None if checkpoint is None else checkpoint.get("epoch")
    return [(panel, panel.describe(history), panel.draw(history, epoch)) for panel in panels(history, names)]


def _too_few_for_frechet(protocol: Mapping[str, Any]) -> bool:
    """Whether covariances are estimated from fewer images than dimensions, which biases the Fréchet distance."""
    smallest = min(protocol["counts"][domain] for domain in DOMAINS)
    return "features" in protocol and smallest <= protocol["features"]["dimensions"]


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

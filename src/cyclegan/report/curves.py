"""Curves of a training's losses and validation metrics."""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSS = re.compile(r"(?P<network>G_AtoB|G_BtoA|D_A|D_B)/(?P<term>\w+)")
VALIDATION = re.compile(r"val_(?P<direction>AtoB|BtoA)/(?P<kind>.+)_(?P<metric>[a-z]+\d*)")
ARROWS = {"AtoB": "A → B", "BtoA": "B → A"}
UNITS = {"l1": "L1, 0…1", "psnr": "PSNR, dB", "ssim": "SSIM"}
BASELINE = "identity baseline"
OUTPUTS = "Mean discriminator output"
COLUMNS = 3


def curves(history: pd.DataFrame) -> Figure | None:
    """Draw losses and validation metrics, with a panel for each network and for each direction and metric.

    Args:
        history: column `epoch` and series named like `G_AtoB/total`, `D_A/real`, `val_AtoB/pair_psnr` and
            `val_AtoB/identity/pair_psnr`. Lines bridge gaps; other series are not drawn.

    Returns:
        A Matplotlib figure, or None without a series to draw.
    """
    panels: dict[str, list[tuple[str, str]]] = {}
    for series in history.columns:
        panel = _panel(str(series))
        if panel is not None and history[series].notna().any():
            title, label = panel
            panels.setdefault(title, []).append((label, series))
    if not panels:
        return None

    # The sort is stable: otherwise panels keep the order of the history's columns.
    ordered = sorted(panels.items(), key=lambda panel: (panel[0].startswith("Validation"), panel[0] == OUTPUTS))
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.1 * COLUMNS, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (title, lines) in zip(axes, ordered, strict=False):
        for label, series in lines:
            points = history[["epoch", series]].dropna()
            style = {"color": "0.5", "linestyle": "--"} if label == BASELINE else {}
            axis.plot(points["epoch"], points[series], label=label, marker="." if len(points) < 30 else "", **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(ordered) :]:
        axis.set_visible(False)
    return figure


def _panel(series: str) -> tuple[str, str] | None:
    """The panel title and the label of a series; None for a series that is not drawn."""
    if match := LOSS.fullmatch(series):
        if match["term"].startswith("output_"):
            return OUTPUTS, f"{match['network']} {match['term'].removeprefix('output_')}"
        return f"{match['network']}: losses", match["term"].replace("_", " ")
    if match := VALIDATION.fullmatch(series):
        metric = UNITS.get(match["metric"], match["metric"])
        label = BASELINE if match["kind"].startswith("identity/") else match["kind"].replace("_", " ")
        return f"Validation {ARROWS[match['direction']]}: {metric}", label
    return None

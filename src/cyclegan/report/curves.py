"""Curves of a training's losses and validation metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cyclegan.domains import DIRECTIONS, PLAIN_NAMES, Direction, Domain, DomainNames

LOSS = re.compile(r"(?P<network>G_AtoB|G_BtoA|D_A|D_B)/(?P<term>\w+)")
VALIDATION = re.compile(r"val_(?P<direction>AtoB|BtoA)/(?P<baseline>identity/)?(?P<metric>\w+)")
# Title and unit of a validation panel by the metric; the others have their own names.
METRICS = {
    "pair_psnr": ("PSNR to the true partner", "dB, higher is better"),
    "pair_ssim": ("SSIM to the true partner", "higher is better"),
    "kid": ("KID", "lower is better"),
    "cycle_l1": ("Cycle error", "L1, 0…1"),
    "identity_l1": ("Identity error", "L1, 0…1"),
}
# Panels of losses in their order; those of other terms follow.
ADVERSARIAL, CYCLE, IDENTITY = "Generators: total and adversarial loss", "Cycle loss", "Identity loss"
DISCRIMINATORS, OUTPUTS = "Discriminator losses", "Mean discriminator outputs"
ORDER = (ADVERSARIAL, CYCLE, IDENTITY, DISCRIMINATORS, OUTPUTS)
# A color for each direction or domain, which color-blind readers distinguish, too (Okabe and Ito 2008).
BLUE, ORANGE = "#0072b2", "#d55e00"
WIDTH, HEIGHT = 4.6, 3.1


@dataclass(frozen=True)
class Line:
    """One series of a panel.

    Attributes:
        label: its name in the legend.
        series: column of the history.
        color, style: of Matplotlib.
    """

    label: str
    series: str
    color: str
    style: str = "-"


@dataclass
class Panel:
    """Series with one axis.

    Attributes:
        title: what they measure.
        unit: label of the axis.
        lines: the series.
        is_validation: whether they are measured on the validation split.
    """

    title: str
    unit: str
    is_validation: bool = False
    lines: list[Line] = field(default_factory=list)

    def draw(self, history: pd.DataFrame, kept_epoch: float | None = None) -> Figure:
        """Draw the series over the epochs, with a vertical line at the epoch of the kept generators."""
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axis = figure.subplots()
        for line in self.lines:
            points = history[["epoch", line.series]].dropna()
            marker = "." if len(points) < 30 else ""
            x, y = points["epoch"], points[line.series]
            axis.plot(x, y, marker=marker, color=line.color, linestyle=line.style, linewidth=1.4, label=line.label)
        if kept_epoch is not None:
            label = f"kept: epoch {kept_epoch:.3g}" if self.is_validation else None
            axis.axvline(kept_epoch, color="0.35", linestyle=":", linewidth=1.4, label=label)
        self._label(axis)
        return figure

    def _label(self, axis: Axes) -> None:
        axis.set_xlabel("epoch", fontsize=9)
        axis.set_ylabel(self.unit, fontsize=9)
        axis.tick_params(labelsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        # The legend stands above the axes, so that it hides no curve.
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(
            handles,
            [_shortened(label) for label in labels],
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=2,
            frameon=False,
            fontsize=9,
        )

    def describe(self, history: pd.DataFrame) -> str:
        """The last value of each series, for readers who do not see the drawing."""
        values = (f"{line.label} {history[line.series].dropna().iloc[-1]:.3g}" for line in self.lines)
        return f"{self.title} over the epochs. Last values: {', '.join(values)}."


def panels(history: pd.DataFrame, names: DomainNames = PLAIN_NAMES) -> list[Panel]:
    """The panels of a training: a panel for each validation metric, then one for each kind of loss.

    Args:
        history: column `epoch` and series named like `G_AtoB/total`, `D_A/output_real`, `val_AtoB/kid` and
            `val_AtoB/identity/pair_psnr`. Lines bridge gaps; other series are not drawn.
        names: of the domains.
    """
    found: dict[str, Panel] = {}
    for series in map(str, history.columns):
        placed = _place(series, names)
        # A term of weight 0 is logged as 0.
        if placed is None or not history[series].fillna(0).any():
            continue
        panel, line = placed
        lines = found.setdefault(panel.title, panel).lines
        # The cycle loss of a path appears with both generators.
        if line.label not in {other.label for other in lines}:
            lines.append(line)

    def rank(panel: Panel) -> tuple[bool, int]:
        order = [f"Validation: {title}" for title, _ in METRICS.values()] if panel.is_validation else list(ORDER)
        return not panel.is_validation, order.index(panel.title) if panel.title in order else len(order)

    return sorted(found.values(), key=rank)


def _place(series: str, names: DomainNames) -> tuple[Panel, Line] | None:
    """The panel of a series and its line; None for a series that is not drawn."""
    if match := VALIDATION.fullmatch(series):
        direction: Direction = "AtoB" if match["direction"] == "AtoB" else "BtoA"
        metric = match["metric"]
        title, unit = METRICS.get(metric, (metric.replace("_", " "), ""))
        label = names.arrow(direction) + (" (identity baseline)" if match["baseline"] else "")
        line = Line(label, series, _color(direction), "--" if match["baseline"] else "-")
        return Panel(f"Validation: {title}", unit, is_validation=True), line
    if match := LOSS.fullmatch(series):
        network, term = match["network"], match["term"]
        if network in ("D_A", "D_B"):
            return _discriminator(series, "A" if network == "D_A" else "B", term, names)
        return _generator(series, "AtoB" if network == "G_AtoB" else "BtoA", term, names)
    return None


def _generator(series: str, direction: Direction, term: str, names: DomainNames) -> tuple[Panel, Line]:
    source, target = (names.of(domain) for domain in DIRECTIONS[direction])
    color = _color(direction)
    if term in ("total", "adversarial"):
        style = "-" if term == "total" else "--"
        return Panel(ADVERSARIAL, "loss"), Line(f"{source} → {target}, {term}", series, color, style)
    if term in ("forward_cycle", "backward_cycle"):
        first, second = (source, target) if term == "forward_cycle" else (target, source)
        color = BLUE if first == names.A else ORANGE
        return Panel(CYCLE, "loss before its weight"), Line(f"{first} → {second} → {first}", series, color)
    if term == "identity":
        return Panel(IDENTITY, "loss before its weight"), Line(f"{target} → {target}", series, color)
    title = f"Generators: {term.replace('_', ' ')} loss"
    return Panel(title, "loss before its weight"), Line(names.arrow(direction), series, color)


def _discriminator(series: str, domain: Domain, term: str, names: DomainNames) -> tuple[Panel, Line] | None:
    name, color = f"D of {names.of(domain)}", BLUE if domain == "A" else ORANGE
    if term.startswith("output_"):
        is_real = term == "output_real"
        label = f"{name}, {'real' if is_real else 'translated'}"
        return Panel(OUTPUTS, "output"), Line(label, series, color, "-" if is_real else "--")
    # The total is the mean of the losses of real and of translated images, which the outputs show one by one.
    if term in ("real", "fake"):
        return None
    title = DISCRIMINATORS if term == "total" else f"Discriminators: {term.replace('_', ' ')}"
    return Panel(title, "loss"), Line(name, series, color)


def _color(direction: Direction) -> str:
    return BLUE if direction == "AtoB" else ORANGE


def _shortened(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"

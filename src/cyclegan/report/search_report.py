"""The files of stage `search`: `best.yaml`, a table, plots, and one page for readers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from cyclegan.params.overrides import ORIGIN
from cyclegan.report.curves import BLUE, ORANGE
from cyclegan.search.shared_search import BAR, PAPER, SharedSearch, costs_of, pareto_front
from cyclegan.search.space import to_overrides
from cyclegan.search.study import reason_of, reported_metrics
from cyclegan.search.verdict import Verdict, decide
from cyclegan.system.files import replacing, write_json, write_text
from cyclegan.system.html import page_template

# Headings of the plots by the name of their file, which ends in a number if there are several objectives.
TITLES = {
    "history": "Objective of each trial, and the best so far",
    "slice": "Objective over each hyperparameter",
    "importance": "Importance of each hyperparameter",
    "intermediate": "Objective of each trial while it trained",
    "pareto": "Both objectives, and the trials that no other beats in both",
    "finals": "Finals: every seed, and the mean as a line",
}
# The report's colors for those of Optuna's lines.
OPTUNA_COLORS = {to_hex("tab:red"): ORANGE, to_hex("tab:blue"): BLUE}


@dataclass(frozen=True)
class Result:
    """The result of a finished search.

    Attributes:
        verdict: the hyperparameters for the training.
        best: content of `best.yaml`.
        trials: one row for each trial and final.
        study: content of `study.json`.
        plots: name → Matplotlib figure.
    """

    verdict: Verdict
    best: Mapping[str, Any]
    trials: pd.DataFrame
    study: Mapping[str, Any]
    plots: Mapping[str, Figure]


def conclude(search: SharedSearch, run_id: str) -> Result:
    """Decide on the winner, and draw the plots.

    Args:
        search: a search whose trials and finals have ended.
        run_id: the MLflow run of the search.
    """
    objectives = search.options.compared
    trials, finals = search.trials.counted(), search.finals().counted()
    finals_by_slot: dict[str, list[FrozenTrial]] = {}
    for name, trial in finals.items():
        finals_by_slot.setdefault(name.rpartition("-")[0], []).append(trial)
    verdict = decide(finals_by_slot, objectives)
    best: dict[str, Any] = {}
    if verdict.winner is not None:
        origin = {"study": search.name, "trial": int(verdict.winner), "run_id": run_id}
        best = {ORIGIN: origin, **to_overrides(search.space, trials[verdict.winner].params)}
    attempts = {"trial": search.trials.attempts(), "final": search.finals().attempts()}
    table = pd.DataFrame(
        [
            _row(phase, name, trial, len(attempts[phase][name]), search)
            for phase, slots in (("trial", trials), ("final", finals))
            for name, trial in slots.items()
        ]
    )
    study = {
        "study": search.name,
        "run_id": run_id,
        "trials": len(trials),
        "states": table[table["phase"] == "trial"]["state"].value_counts().to_dict(),
        "finals": len(finals),
        "lost_attempts": sum(len(tries) - 1 for slots in attempts.values() for tries in slots.values()),
        "winner": None if verdict.winner is None else int(verdict.winner),
        "reason": verdict.reason,
        "paper": search.paper if isinstance(search.paper, str) else search.tries_paper,
        "compared": {name: [asdict(entry) for entry in entries] for name, entries in verdict.compared.items()},
    }
    return Result(verdict, best, table, study, _plots(search, trials, finals_by_slot))


def write_result(folder: Path, result: Result, search: SharedSearch) -> None:
    """Write `best.yaml`, `trials.csv`, `study.json`, a PNG file for each plot, and `report.html`."""
    for name, figure in result.plots.items():
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(_png(figure))
    write_text(folder / "trials.csv", result.trials.to_csv(index=False))
    write_json(folder / "study.json", result.study)
    write_text(folder / "report.html", _page(result, search))
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(dict(result.best), text)
    write_text(folder / "best.yaml", text.getvalue())


def _row(phase: str, name: str, trial: FrozenTrial, attempts: int, search: SharedSearch) -> dict[str, Any]:
    attributes = trial.user_attrs
    columns = {
        "phase": phase,
        "slot": name,
        "state": trial.state.name.lower(),
        "attempts": attempts,
        "reason": reason_of(trial) if trial.state == TrialState.FAIL else None,
        "seed": attributes.get("seed"),
        "seconds": attributes.get("seconds"),
        "run_id": attributes.get("run_id"),
    }
    # The value of a pruned trial comes from an unfinished training.
    values = trial.values if trial.state == TrialState.COMPLETE else [None] * len(search.options.compared)
    objectives = dict(zip((objective.name for objective in search.options.compared), values, strict=True))
    return columns | objectives | trial.params | reported_metrics(trial)


def _plots(
    search: SharedSearch, trials: Mapping[str, FrozenTrial], finals: Mapping[str, Sequence[FrozenTrial]]
) -> dict[str, Figure]:
    """Optuna's plots of the trials, and a plot of the finals."""
    matplotlib.use("Agg")
    objectives = search.options.compared
    study = optuna.create_study(directions=[objective.direction for objective in objectives])
    study.add_trials(list(trials.values()))
    complete = [trial for trial in trials.values() if trial.state == TrialState.COMPLETE]
    known = {BAR, PAPER} if search.tries_paper else {BAR}
    plots: dict[str, Figure] = {}
    drawn = optuna.visualization.matplotlib
    for index, objective in enumerate(objectives):
        target: dict[str, Any] = {"target_name": objective.name}
        if len(objectives) > 1:
            target["target"] = lambda trial, index=index: trial.values[index]
        suffix = "" if len(objectives) == 1 else f"-{index + 1}"
        if complete:
            history = drawn.plot_optimization_history(study, **target)
            for name, label, style in ((BAR, "params.yaml", "--"), (PAPER, "paper", ":")):
                trial = trials[name] if name in known else None
                if trial is not None and trial.state == TrialState.COMPLETE:
                    history.axhline(trial.values[index], color="0.35", linestyle=style, label=label)
            history.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
            plots[f"history{suffix}"] = _figure(history)
            plots[f"slice{suffix}"] = _figure(drawn.plot_slice(study, **target))
        if _has_enough_values(complete, index):
            plots[f"importance{suffix}"] = _figure(drawn.plot_param_importances(study, **target))
    if len(objectives) == 1 and any(trial.intermediate_values for trial in trials.values()):
        plots["intermediate"] = _figure(drawn.plot_intermediate_values(study))
    if len(objectives) == 2 and complete:
        names = [objective.name for objective in objectives]
        plots["pareto"] = _figure(drawn.plot_pareto_front(study, target_names=names))
    if finals:
        plots["finals"] = _finals(search, finals)
    return plots


def _has_enough_values(trials: Sequence[FrozenTrial], index: int) -> bool:
    """Whether the objective has enough different values to estimate the importance of parameters."""
    return len({trial.values[index] for trial in trials}) >= 4


def _figure(axes: Any) -> Figure:
    figure: Figure = np.ravel(np.array(axes, dtype=object))[0].get_figure()
    for axis in figure.axes:
        if axis.get_xscale() == "log":
            # Matplotlib's default labels between powers of ten overlap on a short axis.
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        _restyle(axis)
    width = 3.2 * max(1, len(figure.axes)) if len(figure.axes) > 2 else 7
    figure.set_size_inches(max(7, width), 4.2)
    figure.set_facecolor("white")
    figure.suptitle("")
    return figure


def _restyle(axis: Axes) -> None:
    """Give Optuna's axes the style of the report's curves. The page holds the titles."""
    for place in ("left", "center"):
        axis.set_title("", loc=place)
    axis.set_facecolor("white")
    axis.grid(color="0.8", alpha=0.5)
    axis.set_axisbelow(True)
    axis.spines[["left", "bottom"]].set(visible=True, color="0.3")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9, colors="0.1")
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set(fontsize=9, color="0.1")
    for line in axis.get_lines():
        line.set_color(OPTUNA_COLORS.get(to_hex(line.get_color()), line.get_color()))
    for bar in axis.patches:
        bar.set_facecolor(BLUE)
    if legend := axis.get_legend():
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_fontsize(9)


def _finals(search: SharedSearch, finals: Mapping[str, Sequence[FrozenTrial]]) -> Figure:
    """Plot every seed and the mean of each finalist beside those of params.yaml."""
    objectives = search.options.compared
    figure = Figure(figsize=(7, 3.4 * len(objectives)), layout="constrained")
    for index, (axis, objective) in enumerate(
        zip(figure.subplots(len(objectives), squeeze=False)[:, 0], objectives, strict=True)
    ):
        for position, trials in enumerate(finals.values()):
            values = [trial.values[index] for trial in trials if trial.state == TrialState.COMPLETE]
            axis.plot([position] * len(values), values, "o", color=BLUE, alpha=0.6)
            if values:
                axis.plot([position - 0.2, position + 0.2], [np.mean(values)] * 2, color=ORANGE)
        _restyle(axis)
        names = ["params.yaml" if name == BAR else f"trial {name}" for name in finals]
        axis.set_xticks(range(len(finals)), names)
        axis.set_xlim(-0.5, len(finals) - 0.5)
        axis.set_ylabel(f"{objective.name} ({objective.direction})")
    return figure


def _page(result: Result, search: SharedSearch) -> str:
    objectives = search.options.compared
    trials = search.trials.counted()
    complete = {name: trial for name, trial in trials.items() if trial.state == TrialState.COMPLETE}
    front = pareto_front({name: costs_of(trial.values, objectives) for name, trial in complete.items()})
    names = {BAR: "params.yaml"} | ({PAPER: "paper"} if search.tries_paper else {})
    table = result.trials[result.trials["phase"] == "trial"]
    return page_template("cyclegan.report", "search_report.html.j2", _png).render(
        search=search,
        result=result,
        objectives=objectives,
        titles={name: TITLES[name.partition("-")[0]] for name in result.plots},
        dimensions=[dimension.name for dimension in search.space],
        rows=[
            {"cells": row, "label": names.get(row["slot"], ""), "best": row["slot"] in front}
            for row in table.replace({np.nan: None}).to_dict("records")
        ],
    )


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    return data.getvalue()

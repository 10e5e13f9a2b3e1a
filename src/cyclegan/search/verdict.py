"""The verdict of a search: a finalist goes into `best.yaml` if it beats the bar by more than the spread over seeds.

Each finalist has n seeds, the same for all, with mean m and standard deviation s of an objective. The bar, trial 0, has
m₀, s₀ and n₀. The margin is the larger of

- √((s² + s₀²)/2), the standard deviation over seeds, and
- 2·√(s²/n + s₀²/n₀), twice the standard error of the difference of the means.

A finalist wins if its mean is better than the bar's by more than the margin in at least one objective, and worse by
more than the margin in none. Several winners: the best mean is chosen; with two objectives, the one nearest to the
ideal point, as in `shared_search.ranking`. A finalist with a failed final cannot win. If a final of the bar failed, no
finalist can win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from cyclegan.params import Objective
from cyclegan.search.shared_search import BAR, costs_of, distances


@dataclass(frozen=True)
class Compared:
    """One objective of one finalist against the bar.

    Attributes:
        objective: its name.
        mean, deviation: over seeds, in the objective's unit.
        bar_mean, bar_deviation: the same for the values of params.yaml.
        gain: improvement of the mean, positive for both directions; negative if it is worse.
        margin: the gain that must be exceeded.
    """

    objective: str
    mean: float
    deviation: float
    bar_mean: float
    bar_deviation: float
    gain: float
    margin: float


@dataclass(frozen=True)
class Verdict:
    """The result of the finals.

    Attributes:
        winner: slot of the trial whose values go into `best.yaml`; None: params.yaml stays as it is.
        reason: one sentence.
        compared: one entry per objective for each finalist with complete finals.
    """

    winner: str | None
    reason: str
    compared: Mapping[str, Sequence[Compared]]


def decide(finals: Mapping[str, Sequence[FrozenTrial]], objectives: Sequence[Objective]) -> Verdict:
    """Compare the finalists with the bar.

    Args:
        finals: the finals of each finalist and of the bar, by slot; empty without a finalist.
        objectives: in the order of the trials' values.
    """
    if not finals:
        return Verdict(None, "No trial with other values than params.yaml is complete.", {})
    costs = {
        name: np.array([costs_of(trial.values, objectives) for trial in trials])
        for name, trials in finals.items()
        if all(trial.state == TrialState.COMPLETE for trial in trials)
    }
    if BAR not in costs:
        return Verdict(None, "A final of params.yaml failed: there is nothing to compare with.", {})
    compared = {name: _compare(points, costs[BAR], objectives) for name, points in costs.items() if name != BAR}
    winners = {
        name: costs[name].mean(axis=0)
        for name, entries in compared.items()
        if any(entry.gain > entry.margin for entry in entries) and all(entry.gain >= -entry.margin for entry in entries)
    }
    if not winners:
        best = [f"trial {name} by {_gains(entries)}" for name, entries in compared.items()]
        details = "; ".join(best) or "every finalist has a failed final"
        return Verdict(None, f"No trial beats params.yaml by more than the spread ({details}).", compared)
    if len(objectives) == 1:
        winner = min(winners, key=lambda name: float(winners[name][0]))
    else:
        away = distances({name: list(point) for name, point in winners.items()})
        winner = min(away, key=away.__getitem__)
    return Verdict(winner, f"Trial {winner} beats params.yaml by {_gains(compared[winner])}.", compared)


def _compare(points: np.ndarray, bar: np.ndarray, objectives: Sequence[Objective]) -> list[Compared]:
    entries = []
    for column, objective in enumerate(objectives):
        ours, theirs = points[:, column], bar[:, column]
        sign = -1.0 if objective.direction == "maximize" else 1.0
        variances = ours.var(ddof=1), theirs.var(ddof=1)
        deviation = np.sqrt((variances[0] + variances[1]) / 2)
        error = np.sqrt(variances[0] / len(ours) + variances[1] / len(theirs))
        entries.append(
            Compared(
                objective.name,
                mean=float(sign * ours.mean()),
                deviation=float(np.sqrt(variances[0])),
                bar_mean=float(sign * theirs.mean()),
                bar_deviation=float(np.sqrt(variances[1])),
                gain=float(theirs.mean() - ours.mean()),
                margin=float(max(deviation, 2 * error)),
            )
        )
    return entries


def _gains(entries: Sequence[Compared]) -> str:
    return ", ".join(f"{entry.gain:+.4g} in {entry.objective}, margin {entry.margin:.4g}" for entry in entries)

"""Which setting goes into `best.yaml`: the bar stays unless another one is better by more than the spread.

For each setting of the finals and each objective: mean m and standard deviation s over n seeds that are the same for
all settings. Against the bar (m₀, s₀, n₀) the margin is the larger of

- the standard deviation over seeds, √((s² + s₀²)/2), and
- twice the standard error of the difference of the means, 2·√(s²/n + s₀²/n₀).

A setting wins if it is better than the bar by more than the margin in at least one objective, and in no objective
worse by more than the margin. Among several winners the one with the best mean is taken; with two objectives, the one
nearest to the ideal point as in `shared.ranking`. A setting of which a final failed cannot win; if one of the bar
failed, none can.
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
        bar_mean, bar_deviation: the same of the setting in params.yaml.
        gain: by how much the mean is better, whatever the direction; negative: worse.
        margin: what the gain must exceed.
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
    """What the finals say.

    Attributes:
        winner: slot of the setting that goes into `best.yaml`; None: params.yaml stays as it is.
        reason: one sentence.
        compared: for each finalist with complete finals, one entry for each objective.
    """

    winner: str | None
    reason: str
    compared: Mapping[str, Sequence[Compared]]


def decide(finals: Mapping[str, Sequence[FrozenTrial]], objectives: Sequence[Objective]) -> Verdict:
    """Compare the finalists with the bar.

    Args:
        finals: for each setting, the bar among them, its trials; empty where there is no finalist.
        objectives: as the trials' values stand for.
    """
    if not finals:
        return Verdict(None, "No trial with another setting than params.yaml's was completed.", {})
    costs = {
        name: np.array([costs_of(trial.values, objectives) for trial in trials])
        for name, trials in finals.items()
        if all(trial.state == TrialState.COMPLETE for trial in trials)
    }
    if BAR not in costs:
        return Verdict(None, "A final of the present setting failed: there is nothing to compare with.", {})
    compared = {name: _compare(points, costs[BAR], objectives) for name, points in costs.items() if name != BAR}
    winners = {
        name: costs[name].mean(axis=0)
        for name, entries in compared.items()
        if any(entry.gain > entry.margin for entry in entries) and all(entry.gain >= -entry.margin for entry in entries)
    }
    if not winners:
        best = [f"trial {name} by {_gains(entries)}" for name, entries in compared.items()]
        shown = "; ".join(best) or "every final of another setting failed"
        return Verdict(None, f"No setting beats params.yaml by more than the spread ({shown}).", compared)
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

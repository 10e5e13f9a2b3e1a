"""When a finalist beats the bar, and which trials are the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from cyclegan.params import Objective
from cyclegan.search.shared_search import distances, objective_values, pareto_front, ranking
from cyclegan.search.verdict import decide

PSNR = Objective(name="quality", direction="maximize", terms={"val_AtoB/pair_psnr": 1.0})
ERROR = Objective(name="error", direction="minimize", terms={"val_AtoB/cycle_l1": 1.0})


def trial(*values: float) -> FrozenTrial:
    return create_trial(params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, values=list(values))


def trials(*values: float) -> list[FrozenTrial]:
    return [trial(value) for value in values]


def failed() -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, params={}, distributions={}, user_attrs={"reason": "planted"})


def test_margin_is_the_formula_of_the_docstring() -> None:
    ours, bar = [20.5, 20.7, 20.9], [20.0, 20.3, 20.1]
    verdict = decide({"0": trials(*bar), "4": trials(*ours)}, [PSNR])
    (entry,) = verdict.compared["4"]
    variances = np.var(ours, ddof=1), np.var(bar, ddof=1)
    assert entry.gain == pytest.approx(np.mean(ours) - np.mean(bar))
    assert entry.margin == pytest.approx(max(math.sqrt(sum(variances) / 2), 2 * math.sqrt(sum(variances) / 3)))
    assert verdict.winner == "4"
    assert verdict.reason.startswith("Trial 4 beats params.yaml by +0.5667 in quality, margin ")


def test_a_gain_within_the_spread_changes_nothing() -> None:
    verdict = decide({"0": trials(20.0, 20.4), "4": trials(20.1, 20.5)}, [PSNR])
    assert verdict.winner is None
    assert "No trial beats params.yaml by more than the spread (trial 4 by +0.1 in quality" in verdict.reason


def test_direction_decides_what_is_better() -> None:
    finals = {"0": trials(0.50, 0.51), "4": trials(0.40, 0.41)}
    assert decide(finals, [ERROR]).winner == "4"
    assert decide(finals, [PSNR]).winner is None


def test_the_better_of_two_winners_is_taken() -> None:
    finals = {"0": trials(1.0, 1.01), "4": trials(2.0, 2.01), "5": trials(3.0, 3.01)}
    assert decide(finals, [PSNR]).winner == "5"


def test_failed_finals_decide_nothing() -> None:
    assert decide({"0": trials(1.0, 1.01), "4": [trial(2.0), failed()]}, [PSNR]).winner is None
    assert "nothing to compare with" in decide({"0": [trial(1.0), failed()], "4": trials(2.0, 2.0)}, [PSNR]).reason
    assert "No trial with other values" in decide({}, [PSNR]).reason


def test_with_two_objectives_none_may_become_worse() -> None:
    bar = [trial(20.0, 0.10), trial(20.1, 0.11)]
    traded = [trial(21.0, 0.20), trial(21.1, 0.21)]
    better = [trial(20.5, 0.10), trial(20.6, 0.11)]
    assert decide({"0": bar, "4": traded}, [PSNR, ERROR]).winner is None
    assert decide({"0": bar, "4": traded, "5": better}, [PSNR, ERROR]).winner == "5"


def test_front_and_its_order() -> None:
    points = {"a": [0.0, 1.0], "b": [1.0, 0.0], "c": [0.2, 0.2], "d": [0.3, 0.3], "e": [0.2, 0.2]}
    assert pareto_front(points) == ["a", "b", "c", "e"]
    away = distances({name: points[name] for name in ("a", "b", "c")})
    assert away == pytest.approx({"a": 1.0, "b": 1.0, "c": math.hypot(0.2, 0.2)})
    ranked = ranking({"1": trial(20.0, 0.5), "2": trial(21.0, 0.1), "3": trial(22.0, 0.4)}, [PSNR, ERROR])
    assert ranked[0] in ("2", "3")
    assert "1" not in ranked
    assert ranking({"1": trial(20.0), "2": trial(21.0)}, [PSNR]) == ["2", "1"]
    assert ranking({"1": trial(20.0), "2": trial(21.0)}, [ERROR]) == ["1", "2"]


def test_objectives_are_weighted_sums_of_finite_metrics() -> None:
    mixed = Objective(name="mixed", direction="maximize", terms={"val_AtoB/pair_psnr": 0.5, "val_AtoB/cycle_l1": -10.0})
    assert objective_values({"val_AtoB/pair_psnr": 20.0, "val_AtoB/cycle_l1": 0.1}, [mixed]) == [9.0]
    with pytest.raises(ValueError, match="reported no finite val_AtoB/cycle_l1"):
        objective_values({"val_AtoB/pair_psnr": 20.0, "val_AtoB/cycle_l1": math.inf}, [mixed])

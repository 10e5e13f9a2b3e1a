"""A search as each of its processes sees it: studies, space, slots, and the comparison of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.evaluation.validation_series import validation_series
from cyclegan.params import Objective, Params
from cyclegan.project import Project
from cyclegan.search.space import current_values, dimensions, paper_values
from cyclegan.search.storage import open_storage
from cyclegan.search.study import Phase, Slot, derived_seed, open_study

# Slot with the values of params.yaml: the bar that every other trial has to beat.
BAR = "0"
# Slot with the paper's values, if they differ from params.yaml and the space contains them.
PAPER = "1"
# User attribute of the study: ID of the search's MLflow run.
PARENT = "mlflow_run"


class SharedSearch:
    """The two studies of a search: first the trials, then the finals.

    Args:
        params: of the project; `search.trials` is at least 1.
        key: digest of the data, parameters and code on which objective values depend. Another key is another study.
        storage: URL of a database; None for the project's journal file.
        create: create the study if it does not exist.

    Raises:
        UserError: the space cannot be searched, the storage cannot be used, or the study has another definition.
    """

    def __init__(self, project: Project, params: Params, key: str, storage: str | None, *, create: bool) -> None:
        self.params = params
        self.options = params.search
        self.space = dimensions(params)
        self.name = study_name(params, key)
        self.folder = project.studies / self.name
        self._storage = open_storage(storage, project.studies)
        self._claims = self.folder / "claims"
        self.paper = paper_values(params, self.space)
        pruner = _pruner(self.options.pruner)
        study = open_study(self._storage, self.name, self.options, self._claims, create=create, pruner=pruner)
        self.trials = Phase(study, self._slots(), self.options.seed, self._claims)
        self._finals: Phase | None = None

    @property
    def tries_paper(self) -> bool:
        """Whether slot PAPER has the paper's values: the space contains them, and they differ from params.yaml."""
        return PAPER in self.trials.slots and self.trials.slots[PAPER].fixed == self.paper

    def phase(self) -> Phase | None:
        """The phase that has open slots; None when the search is done."""
        if not self.trials.done:
            return self.trials
        finals = self.finals()
        return None if finals.done else finals

    def finals(self) -> Phase:
        """The finalists and the bar, each trained again with new seeds. Available once the trials are done."""
        if self._finals is None:
            self._finals = self._open_finals()
        return self._finals

    def _open_finals(self) -> Phase:
        name, pruner = f"{self.name}-finals", optuna.pruners.NopPruner()
        study = open_study(self._storage, name, self.options, self._claims, create=True, pruner=pruner)
        finalists = self.finalists()
        trials = self.trials.counted()
        values = {BAR: self.trials.slots[BAR].fixed} | {name: trials[name].params for name in finalists}
        slots = [
            Slot(final_name(name, repeat), fixed, prunable=False)
            for name, fixed in values.items()
            for repeat in range(self.options.repeats)
        ]
        # Without a finalist there is no comparison, so the bar needs no finals.
        if not finalists:
            slots = []
        return Phase(study, slots, self.options.seed, self._claims)

    def finalists(self) -> list[str]:
        """The slots of the best trials except the bar, best first."""
        complete = {
            name: trial
            for name, trial in self.trials.counted().items()
            if trial.state == TrialState.COMPLETE and name != BAR
        }
        bar = self.trials.slots[BAR].fixed
        ranked = ranking(complete, self.options.compared)
        # A trial with the bar's values would only measure the effect of the seed.
        return [name for name in ranked if complete[name].params != bar][: self.options.finalists]

    def seed(self, slot: str, *, final: bool) -> int:
        """The training seed of a slot. In the finals, all hyperparameters get the same seeds."""
        name = f"final {slot.rpartition('-')[2]}" if final else slot
        return derived_seed(self.options.seed, "training", name)

    def _slots(self) -> list[Slot]:
        slots = [Slot(BAR, current_values(self.params, self.space), prunable=False)]
        if isinstance(self.paper, dict) and self.paper != slots[0].fixed:
            slots.append(Slot(PAPER, self.paper, prunable=False))
        slots += [Slot(str(number)) for number in range(len(slots), self.options.trials)]
        return slots[: self.options.trials]


def study_name(params: Params, key: str) -> str:
    """Name of a search's study, with the `key` of SharedSearch."""
    return f"{params.data.dataset}-{params.search.study}-{key[:8]}"


def final_name(finalist: str, repeat: int) -> str:
    """Name of a slot of the finals."""
    return f"{finalist}-{repeat}"


def ranking(trials: Mapping[str, FrozenTrial], objectives: Sequence[Objective]) -> list[str]:
    """Names of complete trials, best first.

    One objective ranks by its value. Two objectives keep only the Pareto front and rank it by the Euclidean distance
    to the ideal point, after scaling each objective to 0…1 between the best and the worst of the front.
    """
    costs = {name: costs_of(trial.values, objectives) for name, trial in trials.items()}
    if len(objectives) == 1:
        return sorted(costs, key=lambda name: costs[name][0])
    front = pareto_front(costs)
    return sorted(front, key=distances({name: costs[name] for name in front}).__getitem__)


def pareto_front(costs: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of the points that no other point dominates; lower is better."""
    return [
        name
        for name, point in costs.items()
        if not any(
            all(x <= y for x, y in zip(other, point, strict=True)) and tuple(other) != tuple(point)
            for other in costs.values()
        )
    ]


def distances(costs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Distance of each point to the ideal point, after scaling each cost to 0…1."""
    if not costs:
        return {}
    points = np.array(list(costs.values()))
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1)
    return dict(zip(costs, map(float, np.linalg.norm(scaled, axis=1)), strict=True))


def costs_of(values: Sequence[float], objectives: Sequence[Objective]) -> list[float]:
    """Objective values with the sign that makes lower better."""
    return [
        -value if objective.direction == "maximize" else value
        for value, objective in zip(values, objectives, strict=True)
    ]


def objective_values(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> list[float]:
    """The objectives as weighted sums of metrics.

    Raises:
        ValueError: a metric is missing or not finite.
    """
    values = []
    for objective in objectives:
        missing = [name for name in objective.terms if not math.isfinite(metrics.get(name, math.nan))]
        if missing:
            raise ValueError(f"reported no finite {', '.join(missing)}")
        values.append(sum(weight * metrics[name] for name, weight in objective.terms.items()))
    return values


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()


def log_file(folder: Path, slot: str, *, final: bool) -> Path:
    """The log of a trial's process."""
    return folder / f"{_trial_name(slot, final)}.log"


def work_folder(folder: Path, slot: str, *, final: bool) -> Path:
    """The folder of a trial's checkpoints, from which its next attempt resumes."""
    return folder / _trial_name(slot, final)


def _trial_name(slot: str, final: bool) -> str:
    return f"{'final' if final else 'trial'}-{slot}"


def with_objectives(params: Params, dataset: PackedDataset) -> Params:
    """The parameters with `search.objectives: auto` resolved for this data.

    Raises:
        UserError: the data does not allow an objective.
    """
    return params.model_copy(update={"search": params.search.resolved(validation_series(dataset))})

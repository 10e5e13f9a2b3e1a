"""Stage `search`: let Optuna choose hyperparameters for stage `train`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cyclegan.project import Project
from cyclegan.system.arguments import positive_number
from cyclegan.system.errors import UserError
from cyclegan.system.locks import only_process

if TYPE_CHECKING:
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.params import Params
    from cyclegan.report.search_report import Result
    from cyclegan.search.shared_search import SharedSearch
    from cyclegan.tracking.run import TrackedRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that override params.yaml on one machine."""
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="number of parallel trials; overrides search.workers"
    )
    parser.add_argument("--storage", metavar="URL", help="database of the study; overrides search.storage")


def run(project: Project, workers: int | None = None, storage: str | None = None) -> None:
    """Search, or continue a search; write `reports/search/`.

    Args:
        workers: overrides `search.workers`.
        storage: overrides `search.storage`.
    """
    from cyclegan.params import load

    params = load(project.params)
    if params.search.trials == 0:
        from cyclegan.search.no_search import write_empty_results

        write_empty_results(project.reports / "search")
        print("search.trials = 0: no search; stage train uses params.yaml unchanged")
        return
    from cyclegan.search.storage import require_storage

    with require_storage(storage or params.search.storage):
        _search(project, params, workers or params.search.workers, storage)


def _search(project: Project, params: Params, workers: int, storage: str | None) -> None:
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.search.supervisor import supervise
    from cyclegan.search.worker import threads_for

    # Check everything that can be checked before a trial.
    if params.tracking.offline:
        raise UserError(
            "tracking.offline: true, but a search logs its trials to MLflow; set it to false, or search.trials to 0"
        )
    dataset = PackedDataset.open(project.split)
    search = _open_search(project, params, dataset, storage)
    with ExitStack() as stack:
        stack.enter_context(only_process(search.folder / "supervisor", f"runs the search {search.name}"))

        # Import this after the checks, because it takes seconds.
        from cyclegan.report.search_report import conclude, write_result

        # Open the search's MLflow run.
        tracked = stack.enter_context(_opened_run(project, search, dataset))

        # Run the trials and the finals.
        arguments = ["--threads", str(threads_for(workers)), *(["--storage", storage] if storage else [])]
        supervise(search, workers, arguments, project.root)

        # Write the reports.
        folder = project.reports / "search"
        result = conclude(search, tracked.id)
        write_result(folder, result, search)
        _log_result(tracked, search, result)
        tracked.log_artifact(folder, "search")
    print(result.verdict.reason)


def _open_search(project: Project, params: Params, dataset: PackedDataset, storage: str | None) -> SharedSearch:
    """Create the search that params.yaml describes, or open it to continue.

    Raises:
        UserError: it cannot be run, or the storage holds another search of this name.
    """
    from cyclegan.experiment.run_key import packed_data_digest, study_key
    from cyclegan.search.shared_search import SharedSearch, with_objectives
    from cyclegan.search.worker import trial_command

    params = with_objectives(params, dataset)
    trial_command(params.search.command)
    key = study_key(project, params, packed_data_digest(project))
    return SharedSearch(project, params, key, storage or params.search.storage, create=True)


@contextmanager
def _opened_run(project: Project, search: SharedSearch, dataset: PackedDataset) -> Iterator[TrackedRun]:
    """Open the MLflow run of the search, the parent of its trials' runs. A continued search resumes it.

    The store is created here, because workers that create it at the same time would fail.
    """
    from cyclegan.experiment.naming import refuse_other_images
    from cyclegan.params import flatten
    from cyclegan.search.shared_search import PARENT
    from cyclegan.search.worker import experiment
    from cyclegan.tracking.provenance import tags
    from cyclegan.tracking.recovery import close_stale_runs
    from cyclegan.tracking.run import TrackedRun
    from cyclegan.tracking.store import open_store

    params, trials = search.params, search.trials
    store = open_store(project, params.tracking)
    refuse_other_images(store, params, dataset)
    close_stale_runs(store, experiment(params))
    print(f"study {search.name}: {len(trials.counted())} of {len(trials.slots)} trials done")
    if isinstance(search.paper, str):
        print(f"no trial has the paper's values: {search.paper}")
    with TrackedRun.start(
        store,
        experiment=experiment(params),
        name=search.name,
        params=dict(flatten(params.model_dump(include={"search"}, exclude={"search": {"storage"}}))),
        tags={**tags(project), "search.study": search.name},
        resume=trials.study.user_attrs.get(PARENT),
    ) as tracked:
        trials.study.set_user_attr(PARENT, tracked.id)
        yield tracked


def _log_result(tracked: TrackedRun, search: SharedSearch, result: Result) -> None:
    """Log the objectives of trial 0, the gain and margin of each finalist, and the verdict."""
    from cyclegan.search.shared_search import BAR

    bar = search.trials.counted()[BAR]
    for objective, value in zip(search.params.search.compared, bar.values or [], strict=False):
        tracked.log_metrics(0, {f"bar/{objective.name}": value})
    for name, entries in result.verdict.compared.items():
        for entry in entries:
            tracked.log_metrics(int(name), {f"finals/{entry.objective}/gain": entry.gain})
            tracked.log_metrics(int(name), {f"finals/{entry.objective}/margin": entry.margin})
    tracked.set_tags({"search.verdict": result.verdict.reason})

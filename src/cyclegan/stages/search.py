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
    """What a machine may choose differently from params.yaml."""
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="trials at once; in place of search.workers"
    )
    parser.add_argument("--storage", metavar="URL", help="database that holds the study; in place of search.storage")


def run(project: Project, workers: int | None = None, storage: str | None = None) -> None:
    """Search, or continue a search; write `reports/search/`.

    Args:
        workers: replaces `search.workers`.
        storage: replaces `search.storage`.
    """
    from cyclegan.params import load

    params = load(project.params)
    if params.search.trials == 0:
        from cyclegan.search.no_search import write_nothing

        write_nothing(project.reports / "search")
        print("search.trials is 0: no search, stage train takes params.yaml as it is")
        return
    from cyclegan.search.storage import needing_storage

    with needing_storage(storage or params.search.storage):
        _search(project, params, workers or params.search.workers, storage)


def _search(project: Project, params: Params, workers: int, storage: str | None) -> None:
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.search.supervisor import supervise
    from cyclegan.search.worker import threads_for

    # Refuse what can be refused at once.
    if params.tracking.offline:
        raise UserError(
            "tracking.offline: true, but a search records its trials in MLflow: set it to false, or search.trials to 0"
        )
    dataset = PackedDataset.open(project.split)
    search = _open_search(project, params, dataset, storage)
    with ExitStack() as stack:
        stack.enter_context(only_process(search.folder / "supervisor", f"runs the search {search.name}"))

        # Not before all that can be refused, since it takes seconds to load.
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
    """The search that params.yaml asks for.

    Raises:
        UserError: it cannot be run, or the storage holds another one of this name.
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
    """The MLflow run of the search, the parent of those of its trials; a continued search continues it.

    The store is created here, before the workers, which would break each other in creating it.
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
        print(f"the paper's setting is not tried: {search.paper}")
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
    """Record how the parameters of params.yaml did, and by how much each finalist did better."""
    from cyclegan.search.shared_search import BAR

    bar = search.trials.counted()[BAR]
    for objective, value in zip(search.params.search.compared, bar.values or [], strict=False):
        tracked.log_metrics(0, {f"bar/{objective.name}": value})
    for name, entries in result.verdict.compared.items():
        for entry in entries:
            tracked.log_metrics(int(name), {f"finals/{entry.objective}/gain": entry.gain})
            tracked.log_metrics(int(name), {f"finals/{entry.objective}/margin": entry.margin})
    tracked.set_tags({"search.verdict": result.verdict.reason})

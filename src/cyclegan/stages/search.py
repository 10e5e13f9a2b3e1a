"""Stage `search`: let Optuna choose settings for stage `train`, and what the command line does with a search."""

from __future__ import annotations

from pathlib import Path

from cyclegan.experiment.run_key import data_digest, study_key
from cyclegan.params import Params, flatten, load
from cyclegan.project import Project
from cyclegan.system.errors import UserError


def run(project: Project, workers: int | None = None, storage: str | None = None) -> None:
    """Search, or go on searching; write `reports/search/`.

    Args:
        workers: replaces `search.workers`.
        storage: replaces `search.storage`.
    """
    params = load(project.params)
    folder = project.reports / "search"
    if params.search.trials == 0:
        from cyclegan.search.no_search import write_nothing

        write_nothing(folder)
        print("search.trials is 0: no search, stage train takes params.yaml as it is")
        return
    from cyclegan.search.storage import needing_storage

    with needing_storage(storage or params.search.storage):
        _search(project, params, folder, workers or params.search.workers, storage)


def _search(project: Project, params: Params, folder: Path, workers: int, storage: str | None) -> None:
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.search.shared_search import BAR, PARENT, SharedSearch, with_objectives
    from cyclegan.search.supervisor import supervise
    from cyclegan.search.worker import experiment, threads_for, trial_command
    from cyclegan.system.locks import held

    if params.tracking.offline:
        raise UserError(
            "tracking.offline: true, but a search records its trials in MLflow: set it to false, or search.trials to 0"
        )
    dataset = PackedDataset.open(project.split)
    params = with_objectives(params, dataset)
    trial_command(params.search.command)
    key = study_key(project, params, data_digest(project))
    search = SharedSearch(project, params, key, storage or params.search.storage, create=True)
    with held(search.folder / "supervisor") as free:
        if not free:
            raise UserError(f"another process runs the search {search.name} here; wait for it or end it")
        # Not before all that may be refused, since they take seconds to load.
        from cyclegan.experiment.naming import refuse_other_images
        from cyclegan.report.search_report import conclude, write_result
        from cyclegan.tracking.provenance import tags
        from cyclegan.tracking.recovery import close_stale_runs
        from cyclegan.tracking.run import TrackedRun
        from cyclegan.tracking.store import open_store

        # Before the workers, which would break each other in creating it.
        store = open_store(project, params.tracking)
        refuse_other_images(store, params, dataset)
        close_stale_runs(store, experiment(params))
        ended = len(search.trials.counted())
        print(f"study {search.name}: {ended} of {len(search.trials.slots)} trials done")
        if isinstance(search.paper, str):
            print(f"the paper's setting is not tried: {search.paper}")
        with TrackedRun.start(
            store,
            experiment=experiment(params),
            name=search.name,
            params=dict(flatten(params.model_dump(include={"search"}, exclude={"search": {"storage"}}))),
            tags={**tags(project), "search.study": search.name},
            resume=search.trials.study.user_attrs.get(PARENT),
        ) as tracked:
            search.trials.study.set_user_attr(PARENT, tracked.id)
            threads = threads_for(workers)
            arguments = ["--threads", str(threads)] + (["--storage", storage] if storage else [])
            supervise(search, workers, arguments, project.root)
            result = conclude(search, tracked.id)
            write_result(folder, result, search)
            bar = search.trials.counted()[BAR]
            for objective, value in zip(params.search.compared, bar.values or [], strict=False):
                tracked.log_metrics(0, {f"bar/{objective.name}": value})
            for name, entries in result.verdict.compared.items():
                for entry in entries:
                    tracked.log_metrics(int(name), {f"finals/{entry.objective}/gain": entry.gain})
                    tracked.log_metrics(int(name), {f"finals/{entry.objective}/margin": entry.margin})
            tracked.set_tags({"search.verdict": result.verdict.reason})
            tracked.log_artifact(folder, "search")
    print(result.verdict.reason)


def work(project: Project, storage: str | None, threads: int | None, supervised: bool) -> None:
    """Take part in a search that `run` has started, here or on another machine with the same project.

    Args:
        supervised: end when standard input closes.
    """
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.search.shared_search import SharedSearch, with_objectives
    from cyclegan.search.storage import needing_storage
    from cyclegan.search.worker import end_with_standard_input
    from cyclegan.search.worker import work as take_trials

    params = load(project.params)
    if params.search.trials == 0:
        raise UserError("search.trials is 0: there is no search to take part in")
    if supervised:
        end_with_standard_input()
    params = with_objectives(params, PackedDataset.open(project.split))
    key = study_key(project, params, data_digest(project))
    where = storage or params.search.storage
    with needing_storage(where):
        search = SharedSearch(project, params, key, where, create=False)
        done = take_trials(project, search, threads)
    if not supervised:
        print(f"the search is done; {done} trials ran here")

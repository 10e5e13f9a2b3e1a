"""Command `search worker`: run trials of a search that another process has started."""

from __future__ import annotations

import argparse

from cyclegan.project import Project
from cyclegan.system.arguments import positive_number
from cyclegan.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the study's storage and the trials' threads."""
    parser.add_argument("--storage", metavar="URL", help="database of the study; overrides search.storage")
    parser.add_argument("--threads", type=positive_number, metavar="N", help="CPU threads per trial; default: all")
    parser.add_argument("--supervised", action="store_true", help="end when standard input closes")


def run(options: argparse.Namespace) -> None:
    """Take part in a search that stage `search` has started, here or on another machine with the same project.

    Raises:
        UserError: there is no such search, or its storage cannot be used.
    """
    from cyclegan.data.loading.dataset import PackedDataset
    from cyclegan.experiment.run_key import packed_data_digest, study_key
    from cyclegan.params import load
    from cyclegan.search.shared_search import SharedSearch, with_objectives
    from cyclegan.search.storage import require_storage
    from cyclegan.search.worker import end_with_standard_input, work

    project = Project.find()
    params = load(project.params)
    if params.search.trials == 0:
        raise UserError("search.trials = 0: there is no search to take part in; set it to the number of the search")
    if options.supervised:
        end_with_standard_input()
    params = with_objectives(params, PackedDataset.open(project.split))
    key = study_key(project, params, packed_data_digest(project))
    where = options.storage or params.search.storage
    with require_storage(where):
        search = SharedSearch(project, params, key, where, create=False)
        done = work(project, search, options.threads)
    if not options.supervised:
        print(f"the search is done; this worker ran {done} trials")
